// Pages work without this file. With it: the browser's time zone is offered first, a page that is out of date
// says so, menus close by Esc and by clicks outside, a form is sent once and keeps the focus, and a new key
// can be copied.
(function () {
  "use strict";

  var zone = document.querySelector("[data-browser-time-zone]");
  if (zone) {
    zone.value = browserZone();
  }
  function browserZone() { return Intl.DateTimeFormat().resolvedOptions().timeZone || ""; }
  document.querySelectorAll("[data-time-zones]").forEach(function (list) {
    var own = Array.from(list.options).find(function (option) { return option.value === browserZone(); });
    if (!own) { return; }
    var group = list;
    if (list.localName === "select") {
      group = document.createElement("optgroup");
      group.label = "This browser's time zone";
      list.prepend(group);
    }
    group.prepend(own);
  });

  var stale = document.getElementById("stale");
  function isStale() {
    if (stale.hidden) {
      stale.textContent = "This page could not be updated at " +
        new Date().toLocaleTimeString() + ". Trying again.";
      stale.hidden = false;
    }
  }
  // A list that is not kept up to date says so after a minute.
  if (document.querySelector("[data-ages]")) {
    var read = new Date().toLocaleTimeString();
    setTimeout(function () {
      var again = document.createElement("a");
      again.href = location.href;
      again.textContent = "Update it";
      stale.append("This list may be out of date. It was read at " + read + ". ", again);
      stale.hidden = false;
    }, 60000);
  }
  document.addEventListener("htmx:responseError", isStale);
  document.addEventListener("htmx:sendError", isStale);
  document.addEventListener("htmx:timeout", isStale);
  document.addEventListener("htmx:afterSwap", function () { stale.hidden = true; });
  // A hidden page makes no requests.
  document.addEventListener("htmx:beforeRequest", function (event) {
    var source = event.detail.elt;
    if (document.hidden && source.getAttribute("hx-trigger") && !("notifies" in document.body.dataset)) {
      event.preventDefault();
    }
  });

  function closeMenus(remains) {
    document.querySelectorAll("details.menu[open]").forEach(function (menu) {
      if (!remains(menu)) { menu.open = false; }
    });
  }
  document.addEventListener("click", function (event) {
    closeMenus(function (menu) { return menu.contains(event.target) && !event.target.closest("a"); });
  });
  document.addEventListener("keydown", function (event) {
    if (event.key !== "Escape") { return; }
    var menu = document.activeElement.closest("details.menu[open]");
    if (menu) { menu.querySelector("summary").focus(); }
    closeMenus(function () { return false; });
  });

  // A form that leads back to its page: the focus and the scroll position stay where they were.
  function describe(element, form) {
    if (element.id) { return "#" + CSS.escape(element.id); }
    var action = form.getAttribute("action");
    return (action ? "form[action=\"" + CSS.escape(action) + "\"] " : "form:not([action]) ") + element.localName +
      (element.name ? "[name=\"" + CSS.escape(element.name) + "\"]" : "");
  }
  function page() { return location.pathname + " " + document.querySelector("h1").textContent; }
  function remember(form, submitter) {
    var focused = form.contains(document.activeElement) ? document.activeElement : submitter;
    if (!focused) { return; }
    var place = {page: page(), focus: describe(focused, form), top: scrollY, at: Date.now()};
    try { sessionStorage.setItem("place", JSON.stringify(place)); } catch (_) { /* not allowed to store */ }
  }
  function recall() {
    var place = null;
    try {
      place = JSON.parse(sessionStorage.getItem("place"));
      sessionStorage.removeItem("place");
    } catch (_) { return; }
    if (!place || place.page !== page() || Date.now() - place.at > 30000) { return; }
    if (document.querySelector("[autofocus]")) { return; }
    var faulty = document.querySelector("[aria-invalid=true]");
    if (faulty) { faulty.focus(); return; }
    var focused = document.querySelector(place.focus);
    if (!focused) { return; }
    focused.focus({preventScroll: true});
    if (!location.hash) {
      scrollTo(0, place.top);
      document.querySelectorAll(".flash").forEach(function (note) { note.classList.add("stays"); });
    }
  }
  recall();

  // Ignore a second click while the first request runs. The server would treat it as a repetition anyway.
  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (!form.hasAttribute("hx-get") && !("startsOver" in form.dataset)) { remember(form, event.submitter); }
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
