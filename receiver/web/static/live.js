// An htmx extension: hx-swap="merge" changes the page into the answer, node by node, instead of replacing it.
// Unchanged nodes are kept, so an update every two seconds does not reset the reader's selection, focus,
// scroll position or unfolded sections.
// htmx makes the requests. app.js pauses them while the page is hidden, and status 286 ends them.
(function () {
  "use strict";

  function sameKind(one, other) {
    return one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
  }

  function mergeAttributes(from, to) {
    Array.from(to.attributes).forEach(function (attribute) {
      if (from.getAttribute(attribute.name) !== attribute.value) { from.setAttribute(attribute.name, attribute.value); }
    });
    Array.from(from.attributes).forEach(function (attribute) {
      // Only the reader opens and closes a section.
      if (!to.hasAttribute(attribute.name) && !(attribute.name === "open" && from.nodeName === "DETAILS")) {
        from.removeAttribute(attribute.name);
      }
    });
  }

  function merge(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) { from.data = to.data; }
      return;
    }
    if (from.isEqualNode(to)) { return; }
    mergeAttributes(from, to);
    var old = from.firstChild;
    Array.from(to.childNodes).forEach(function (wanted) {
      if (wanted.id) {
        var kept = Array.from(from.children).find(function (child) { return sameKind(child, wanted); });
        // Remove nodes before a kept part: they are no longer in the answer.
        while (kept && old && old !== kept && old.compareDocumentPosition(kept) & Node.DOCUMENT_POSITION_FOLLOWING) {
          var gone = old;
          old = old.nextSibling;
          gone.remove();
        }
      }
      if (old && sameKind(old, wanted)) {
        var next = old.nextSibling;
        merge(old, wanted);
        old = next;
      } else {
        from.insertBefore(wanted, old);
      }
    });
    while (old) {
      var left = old;
      old = old.nextSibling;
      left.remove();
    }
  }

  htmx.defineExtension("merge", {
    isInlineSwap: function (style) { return style === "merge"; },
    handleSwap: function (style, target, fragment) {
      if (style !== "merge") { return false; }
      var answers = fragment.nodeType === Node.ELEMENT_NODE ? [fragment] : Array.from(fragment.children);
      answers.forEach(function (answer) {
        var place = answer.id === target.id ? target : document.getElementById(answer.id);
        // Something else may have been chosen to be shown since this was asked for.
        if (!place || place.dataset.shown !== answer.dataset.shown) { return; }
        merge(place, answer);
        if (place !== target) { htmx.process(place); }
      });
      return [];
    }
  });

  // Update the title, which contains the progress. Show a notification when the calls have ended, if it was requested.
  var live = document.getElementById("live"), notify = document.getElementById("notify");
  document.addEventListener("htmx:afterSwap", function () {
    if (live && live.dataset.title) { document.title = live.dataset.title; }
    if (notify && notify.getAttribute("aria-pressed") === "true" && hasEnded()) {
      choose(false);
      var shown = new Notification(document.title, {body: document.querySelector(".balance strong").textContent});
      shown.onclick = function () { window.focus(); };
    }
    if (notify && hasEnded()) { notify.hidden = true; }
  });
  function hasEnded() { return ["ended", "overdue"].includes(live.dataset.phase); }
  function choose(wanted) {
    notify.setAttribute("aria-pressed", wanted);
    if (wanted) { document.body.dataset.notifies = ""; } else { delete document.body.dataset.notifies; }
  }
  if (notify && "Notification" in window && Notification.permission !== "denied" && !hasEnded()) {
    notify.hidden = false;
    notify.addEventListener("click", function () {
      var wanted = notify.getAttribute("aria-pressed") !== "true";
      Notification.requestPermission().then(function (answer) {
        choose(wanted && answer === "granted");
        if (answer === "denied") { notify.textContent = "This browser blocks notifications"; }
      });
    });
  }

  // An answer without changes also shows that the page is up to date.
  document.addEventListener("htmx:afterOnLoad", function (event) {
    if (event.detail.xhr.status === 204) { document.getElementById("stale").hidden = true; }
  });
}());
