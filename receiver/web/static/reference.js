// Starts Swagger UI with our API description. A separate file, because the Content-Security-Policy allows no inline script.
"use strict";

const description = document.currentScript.dataset.description;

// Swagger UI's own dark colours, if the browser asks for them.
const dark = matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", applyTheme);
applyTheme();

// Shows an operation's x-codeSamples above its answers.
const Samples = ({ React }) => ({
  wrapComponents: {
    responses: (Responses, system) => (props) => {
      const samples = system.specSelectors.specJson().getIn(["paths", props.path, props.method, "x-codeSamples"]);
      return React.createElement(React.Fragment, null,
        samples && React.createElement(SampleTabs, { React, samples: samples.toJS() }),
        React.createElement(Responses, props));
    },
  },
});

function SampleTabs({ React, samples }) {
  const [shown, show] = React.useState(0);
  const [copied, setCopied] = React.useState(false);
  const copy = () => navigator.clipboard.writeText(samples[shown].source).then(() => setCopied(true));
  return React.createElement("div", { className: "samples" },
    React.createElement("div", { className: "opblock-section-header" },
      React.createElement("h4", null, "Request samples"),
      samples.map((sample, index) => React.createElement("button", {
        key: sample.label,
        className: "btn",
        "aria-pressed": index === shown,
        onClick: () => { show(index); setCopied(false); },
      }, sample.label)),
      React.createElement("button", { className: "btn", onClick: copy }, copied ? "Copied" : "Copy")),
    React.createElement("pre", { tabIndex: 0 }, samples[shown].source));
}

// Leaves a form's optional fields empty, where Swagger UI would fill in made-up values.
const EmptyFields = () => ({
  afterLoad() {
    const sample = this.fn.getSampleSchema;
    this.fn.getSampleSchema = (schema, ...rest) => {
      const { type, anyOf, properties, examples, example, default: usual } = schema?.toJS?.() ?? schema ?? {};
      const plain = !properties && (anyOf || ["string", "integer", "number", "boolean"].includes(type));
      return plain && [examples, example, usual].every((given) => given === undefined)
        ? "" : sample(schema, ...rest);
    };
  },
});

SwaggerUIBundle({
  url: description,
  dom_id: "#reference",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [Samples, EmptyFields],
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});

// Swagger UI leaves out what screen readers and keyboards need. It draws again at any time, so each change is repaired.
const reference = document.getElementById("reference");
const textOf = (element) => element?.textContent.trim().split(/\s/)[0];

function repair() {
  const each = (selector, change) => reference.querySelectorAll(selector).forEach(change);
  const name = (element, words) => { if (!element.hasAttribute("aria-label")) { element.setAttribute("aria-label", words); } };
  // What is beside its main element is a region, too.
  Object.entries({ ".information-container": "Introduction", ".scheme-container": "Access", "section.models": "Schemas" })
    .forEach(([selector, words]) => each(selector, (part) => {
      part.setAttribute("role", "region");
      name(part, words);
    }));
  // The title is the first level of the headings.
  each("h3, h4, h5", (heading) => {
    heading.setAttribute("role", "heading");
    heading.setAttribute("aria-level", Number(heading.localName[1]) - 1);
  });
  // The button around the link does the same.
  each(".opblock-summary-control a[href]", (link) => link.removeAttribute("href"));
  each("pre.microlight", (example) => { example.tabIndex = 0; });
  each("#servers", (list) => name(list, "Server"));
  each(".examples-select-element", (list) => name(list, "Example"));
  each("tr select, tr input, tr textarea", (field) => {
    if (!field.placeholder) { name(field, textOf(field.closest("tr").querySelector(".parameter__name")) || "Value"); }
  });
  each(".body-param textarea", (body) => name(body, "Request body"));
  each("table[role=region]", (answers) => name(answers, `Responses of ${answers.closest(".opblock").id.split("-").pop()}`));
}
new MutationObserver(repair).observe(reference, { childList: true, subtree: true });
