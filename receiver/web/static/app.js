// Pages work without this file. With it: the browser's time zone is offered at sign-in, a page that
// cannot be brought up to date says so, a form is sent once, and a new key can be copied.
(function () {
  "use strict";

  var zone = document.querySelector("[data-browser-time-zone]");
  if (zone) {
    zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  }

  var stale = document.getElementById("stale");
  function isStale() {
    if (stale.hidden) {
      stale.textContent = "This page could not be updated at " +
        new Date().toLocaleTimeString() + ". Trying again.";
      stale.hidden = false;
    }
  }
  document.addEventListener("htmx:responseError", isStale);
  document.addEventListener("htmx:sendError", isStale);
  document.addEventListener("htmx:timeout", isStale);
  document.addEventListener("htmx:afterSwap", function () { stale.hidden = true; });
  // A hidden page makes no requests.
  document.addEventListener("htmx:beforeRequest", function (event) {
    var source = event.detail.elt;
    if (document.hidden && source.getAttribute("hx-trigger")) {
      event.preventDefault();
    }
  });

  // Ignore a second click while the first request runs. The server would treat it as a repetition anyway.
  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (form.method !== "post" || form.hasAttribute("hx-post")) { return; }
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
    var button = event.submitter;
    if (button && button.dataset.busy) { button.textContent = button.dataset.busy; }
  });
  // Back brings the page as it was left.
  window.addEventListener("pageshow", function (event) {
    if (event.persisted) {
      document.querySelectorAll("form[data-sent]").forEach(function (form) { delete form.dataset.sent; });
    }
  });

  // A file can be dropped anywhere on the page that has a box for it.
  var box = document.querySelector("[data-drop-zone] input");
  function carriesFile(event) { return event.dataTransfer && Array.from(event.dataTransfer.types).indexOf("Files") >= 0; }
  if (box) {
    ["dragover", "dragleave", "drop"].forEach(function (kind) {
      document.addEventListener(kind, function (event) {
        if (!carriesFile(event)) { return; }
        event.preventDefault();
        box.parentNode.classList.toggle("over", kind === "dragover");
        if (kind !== "drop" || !event.dataTransfer.files.length) { return; }
        var folded = box.closest("details");
        if (folded) { folded.open = true; }
        box.files = event.dataTransfer.files;
        box.focus();
      });
    });
  }

  document.querySelectorAll("[data-presets]").forEach(function (presets) {
    presets.hidden = false;
    presets.addEventListener("click", function (event) {
      var button = event.target.closest("button");
      if (button) { document.getElementById(presets.dataset.presets).value = button.value; }
    });
  });

  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copies]");
    if (!button) { return; }
    var source = document.getElementById(button.dataset.copies);
    navigator.clipboard.writeText(source.textContent.trim()).then(function () { button.textContent = "Copied"; });
  });
  document.querySelectorAll("[data-copies]").forEach(function (button) {
    if (navigator.clipboard) { button.hidden = false; }
  });
}());
