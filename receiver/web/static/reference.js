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
