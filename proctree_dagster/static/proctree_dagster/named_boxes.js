/* Gives each box in which a row is searched for its field's name, for screen readers: Select2, which Django's
   admin uses for it, makes an element without one. */
"use strict";

(() => {
  function name(part) {
    for (const select of part.querySelectorAll("select.admin-autocomplete[id]")) {
      const box = document.getElementById(`select2-${select.id}-container`);
      const label = document.querySelector(`label[for="${CSS.escape(select.id)}"]`);
      const text = select.getAttribute("aria-label") || label?.textContent.trim();
      if (box && text) box.setAttribute("aria-label", text);
    }
  }

  // After Select2 has made its elements, which it does when jQuery says that the document is ready (that may
  // be later than the event "load"), and in a new row.
  window.addEventListener("load", () => window.django.jQuery(() => name(document)));
  document.addEventListener("formset:added", (event) => window.setTimeout(() => name(event.target)));
})();
