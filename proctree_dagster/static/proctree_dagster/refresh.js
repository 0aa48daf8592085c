/* Fetches parts of a page again while its tab is visible.

   A part is an element with data-pt-refresh: the address of its HTML; data-pt-seconds: how often, 10
   if left out; and an id. It stops when a new part lacks data-pt-refresh, such as that of a run which
   has ended. What in it has data-pt-announce is read to those who can't see it, when it changes: in
   the page's element with data-pt-announcer. Without JavaScript nothing is refreshed, and the page
   works. */
"use strict";

(() => {
  const SECONDS = 10;

  /* The selector by which an element of the old part is found in the new one. */
  function selector(element) {
    if (element.id) return `#${CSS.escape(element.id)}`;
    const href = element.getAttribute("href");
    return href ? `${element.localName}[href="${CSS.escape(href)}"]` : null;
  }

  /* Replaces a part by its new version; what is open stays open, and the focus stays where it is. */
  function replace(part, fresh) {
    for (const each of part.querySelectorAll("details[id]")) {
      const same = fresh.querySelector(selector(each));
      if (same) same.open = each.open;
    }
    announce(part, fresh);
    const active = part.contains(document.activeElement) ? selector(document.activeElement) : null;
    part.replaceWith(fresh);
    if (active) fresh.querySelector(active)?.focus({ preventScroll: true });
  }

  /* Lets screen readers say what has changed: a part that is replaced itself would stay silent. */
  function announce(part, fresh) {
    const said = (each) => each.querySelector("[data-pt-announce]")?.textContent.trim();
    const announcer = document.querySelector("[data-pt-announcer]");
    if (announcer && said(fresh) !== said(part)) announcer.textContent = said(fresh) ?? "";
  }

  /* Says in the part that it is out of date. */
  function warn(part) {
    const note = part.querySelector("[data-pt-stale]");
    if (note) note.hidden = false;
  }

  async function refresh(part) {
    const answer = await fetch(part.dataset.ptRefresh, {
      credentials: "same-origin",
      headers: { "X-Requested-With": "XMLHttpRequest" },
      redirect: "error", // to the page for logging in
    });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById(part.id);
    if (!fresh) throw new Error("The answer lacks the part.");
    replace(part, document.adoptNode(fresh));
    return fresh;
  }

  function watch(part) {
    const pause = 1000 * (Number(part.dataset.ptSeconds) || SECONDS);
    const again = async () => {
      let next = part;
      if (!document.hidden) {
        try {
          next = await refresh(part);
        } catch {
          warn(part);
        }
      }
      if (next.dataset.ptRefresh) watch(next);
    };
    window.setTimeout(again, pause);
  }

  document.querySelectorAll("[data-pt-refresh][id]").forEach(watch);
})();
