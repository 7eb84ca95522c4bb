"""What a person would see at once on a picture of a page: broken words, texts over each other, cut choices."""

from __future__ import annotations

from playwright.sync_api import Page

_FAULTS = r"""
() => {
  const faults = new Set(), boxes = [];
  const isShown = (element) => element.checkVisibility({visibilityProperty: true});
  // The main buttons of a form and open menus lie over the page, and some texts are only for screen readers.
  const isAbove = (element) => {
    for (let each = element; each; each = each.parentElement) {
      if (["sticky", "fixed", "absolute"].includes(getComputedStyle(each).position)) { return true; }
    }
    return false;
  };
  const add = (element, box, name) => {
    let {left, right, top, bottom} = box;
    for (let each = element; each; each = each.parentElement) {
      if (getComputedStyle(each).overflowX === "visible") { continue; }
      const outer = each.getBoundingClientRect();
      left = Math.max(left, outer.left); right = Math.min(right, outer.right);
      top = Math.max(top, outer.top); bottom = Math.min(bottom, outer.bottom);
    }
    if (right - left > 1 && bottom - top > 1) { boxes.push({left, right, top, bottom, element, name}); }
  };

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, element = text.parentElement, range = document.createRange();
    if (!text.data.trim() || element.closest("svg, option, textarea") || !isShown(element) || isAbove(element)) {
      continue;
    }
    if (/[\u202a-\u202e\u2066-\u2069\u200b\u200e\u200f]/.test(text.data)) {
      faults.add(`hidden characters: ${text.data}`);
    }
    const isPart = [text.previousSibling, text.nextSibling].some((each) => each?.className === "hidden-character");
    for (const word of isPart ? [] : text.data.matchAll(/(?<!\S)[\p{L}\p{N}.,:+_/]{2,16}(?!\S)/gu)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const lines = [...range.getClientRects()].filter((box) => box.width);
      if (lines.some((box) => Math.abs(box.top - lines[0].top) > 4)) { faults.add(`broken word: ${word[0]}`); }
    }
    range.selectNodeContents(text);
    for (const box of range.getClientRects()) { add(element, box, text.data.trim()); }
  }

  const pen = document.createElement("canvas").getContext("2d");
  for (const element of document.querySelectorAll("button, .button, .badge, select, input, textarea")) {
    if (!isShown(element) || isAbove(element)) { continue; }
    const style = getComputedStyle(element), box = element.getBoundingClientRect();
    if (element.localName === "select") {
      pen.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
      const wanted = Math.max(...[...element.options].map((option) => pen.measureText(option.text).width));
      const around = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight), arrow = 18;
      const missing = Math.round(wanted + around + arrow - element.clientWidth);
      if (missing > 1) { faults.add(`cut by ${missing} pixels: the choice ${element.id}`); }
    } else if (element.matches("button, .button") && innerWidth > 1000) {
      if (box.height > 2.2 * parseFloat(style.lineHeight)) { faults.add(`several lines: ${element.innerText}`); }
    }
    add(element, box, element.id || element.innerText);
  }

  boxes.sort((one, other) => one.top - other.top);
  boxes.forEach((one, index) => {
    for (const other of boxes.slice(index + 1)) {
      if (other.top > one.bottom - 3) { break; }
      if (one.element.contains(other.element) || other.element.contains(one.element)) { continue; }
      const wide = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      if (wide > 2 && Math.min(one.bottom, other.bottom) - other.top > 3) {
        faults.add(`one over the other: ${one.name.slice(0, 60)} | ${other.name.slice(0, 60)}`);
      }
    }
  });
  return [...faults];
}
"""


def layout_faults(page: Page) -> list[str]:
    """The faults of the page as it is now. Buttons may have several lines on a narrow page."""
    faults: list[str] = page.evaluate(_FAULTS)
    return faults
