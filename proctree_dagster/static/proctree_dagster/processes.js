/* What a script adds to the rows of a tree's processes: more rows, buttons that move a row, names that
   follow what is typed, and functions that are fetched as one types. Without it the form works, too. */
"use strict";

(() => {
  const PREFIX = "processes-rows";
  const TYPING_PAUSE = 200;
  const form = document.querySelector("[data-pt-processes]");
  const list = form?.querySelector("[data-pt-rows]");
  if (!list) return;

  const rows = () => [...list.querySelectorAll(":scope > [data-pt-row]")];
  const placeOf = (row) => row.id.slice(PREFIX.length + 1);
  const field = (row, name) => row.querySelector(`[name="${PREFIX}-${placeOf(row)}-${name}"]`);
  const total = form.querySelector(`[name="${PREFIX}-TOTAL_FORMS"]`);
  const most = Number(form.querySelector(`[name="${PREFIX}-MAX_NUM_FORMS"]`).value);

  function labelOf(row) {
    return field(row, "name").value || row.querySelector("legend").textContent;
  }

  /* Adds to a row the choice to depend on another one. */
  function offer(row, other) {
    const place = placeOf(other);
    const box = document.createElement("input");
    box.type = "checkbox";
    box.name = `${PREFIX}-${placeOf(row)}-dependencies`;
    box.value = place;
    box.id = `id_${box.name}_of_${place}`;
    const label = document.createElement("label");
    label.htmlFor = box.id;
    label.textContent = labelOf(other);
    const item = document.createElement("div");
    item.append(box, " ", label);
    row.querySelector("[data-pt-dependencies] fieldset").append(item);
  }

  /* Shows a row's new name wherever another row may depend on it. */
  function rename(row) {
    const place = placeOf(row);
    for (const other of rows()) {
      const box = other.querySelector(`[data-pt-dependencies] input[value="${CSS.escape(place)}"]`);
      const label = box && other.querySelector(`label[for="${CSS.escape(box.id)}"]`);
      if (label) label.textContent = labelOf(row);
    }
  }

  function number() {
    rows().forEach((row, index) => {
      field(row, "ORDER").value = index + 1;
    });
  }

  function move(row, step) {
    const all = rows();
    const other = all[all.indexOf(row) + step];
    if (!other) return;
    if (step < 0) other.before(row);
    else other.after(row);
    number();
  }

  /* A row's buttons stand in for the number of its position. */
  function equip(row) {
    const up = row.querySelector("[data-pt-up]");
    const down = row.querySelector("[data-pt-down]");
    row.querySelector("[data-pt-position]").hidden = true;
    for (const [button, step] of [[up, -1], [down, 1]]) {
      button.hidden = false;
      button.addEventListener("click", () => {
        move(row, step);
        button.focus();
      });
    }
    field(row, "name").addEventListener("input", () => rename(row));
  }

  const add = form.querySelector("[data-pt-add]");
  const full = form.querySelector("[data-pt-full]");

  function addRow() {
    const place = total.value;
    const blank = form.querySelector("template[data-pt-new-row]").innerHTML;
    const made = document.createElement("template");
    made.innerHTML = blank
      .replaceAll("__prefix__", place)
      .replaceAll("__number__", String(Number(place) + 1));
    const row = made.content.querySelector("[data-pt-row]");
    const others = rows();
    list.append(row);
    total.value = String(Number(place) + 1);
    row.querySelectorAll("[data-pt-dependencies] fieldset > :not(legend)").forEach((each) => each.remove());
    for (const other of others) {
      offer(row, other);
      offer(other, row);
    }
    equip(row);
    number();
    field(row, "name").focus();
    checkRoom();
  }

  function checkRoom() {
    const isFull = Number(total.value) >= most;
    add.hidden = isFull;
    full.hidden = !isFull;
  }

  /* Functions, as one types. */
  function complete(container, functions) {
    let pending;
    container.addEventListener("input", (event) => {
      if (!event.target.matches(`[list="${functions.id}"]`)) return;
      window.clearTimeout(pending);
      pending = window.setTimeout(async () => {
        const query = new URLSearchParams({ q: event.target.value });
        const answer = await fetch(`${form.dataset.ptFunctions}?${query}`, { credentials: "same-origin" });
        if (!answer.ok) return;
        const found = await answer.json();
        functions.replaceChildren(
          ...found.functions.map(({ reference, summary }) => new Option(summary, reference)),
        );
      }, TYPING_PAUSE);
    });
  }

  rows().forEach(equip);
  add.addEventListener("click", addRow);
  checkRoom();
  const functions = form.querySelector("datalist[data-pt-more]");
  if (functions && form.dataset.ptFunctions) complete(list, functions);
})();
