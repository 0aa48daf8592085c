/* What test_accessibility.py asks a page, beside axe. Each function returns a list of texts. */
"use strict";

window.pageChecks = (() => {
  const CONTROLS =
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
  const SAYING = "h1, h2, h3, legend, th, label, button, input[type=submit], summary, dt";
  const isVisible = (each) => each.checkVisibility({ visibilityProperty: true });
  const inContent = (selector) => [...document.querySelectorAll(`#content :is(${selector})`)];
  const start = (each) => each.outerHTML.slice(0, 200);
  let left = new Set();

  // A colour that is on its way to another one is none that can be measured.
  const still = document.createElement("style");
  still.textContent = "* { transition: none !important; }";
  document.head.append(still);

  /* The violations of some rules, or of all, that axe finds; but for the parts of these selectors. */
  async function violations(excluded, rules) {
    const context = { exclude: excluded.map((each) => [each]) };
    const found = await window.axe.run(context, {
      resultTypes: ["violations"],
      ...(rules && { runOnly: rules }),
    });
    const told = (node) => [...node.any, ...node.all, ...node.none].map((each) => each.message);
    return found.violations.flatMap(({ id, nodes }) =>
      nodes.map((node) => `${id}: ${node.html.slice(0, 200)}: ${told(node).join(" ")}`),
    );
  }

  /* What reaches over the right edge, if the page scrolls sideways. */
  function tooWide() {
    const room = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= room) return [];
    const reach = (each) => Math.round(each.getBoundingClientRect().right);
    return [...document.querySelectorAll("body, body *")]
      .filter((each) => reach(each) > room)
      .map((each) => `${reach(each)}: ${start(each)}`);
  }

  /* Puts the focus before the content; returns how often Tab must be pressed. */
  function beginTabbing() {
    const isControl = (each) =>
      isVisible(each) &&
      !each.disabled &&
      !each.closest("[aria-hidden=true]") && // another control stands for it
      (each.type !== "radio" || each.checked); // the arrow keys lead to the others
    left = new Set(inContent(CONTROLS).filter(isControl));
    document.addEventListener("focusin", (event) => left.delete(event.target));
    const content = document.querySelector("#content");
    content.tabIndex = -1;
    content.focus();
    return left.size;
  }

  /* The controls at which Tab did not arrive. */
  const unreached = () => [...left].map(start);

  /* What names the parts of a page: headings, labels, buttons. */
  const names = () =>
    inContent(SAYING)
      .filter(isVisible)
      .map((each) => (each.value || each.textContent).trim().replace(/\s+/g, " "))
      .filter(Boolean);

  return { violations, tooWide, beginTabbing, unreached, names };
})();
