// Tables of items that can be searched, filtered and sorted. Without this script their first rows stand there as they are.
"use strict";

const ROWS_AT_A_TIME = 25;

for (const table of document.querySelectorAll("table[data-items]")) {
  browse(table, JSON.parse(document.getElementById(table.dataset.items).textContent));
}

// columns: [{name, numeric, names}], of which `names` are what the numbers in its cells stand for; rows: [[cell, ...], ...]
function browse(table, { columns, rows }) {
  const shown = (row, i) => (columns[i].names ? columns[i].names[row[i]] : row[i]);
  const texts = rows.map((row) => row.map((_, i) => shown(row, i) ?? "").join(" ").toLowerCase());
  const state = { search: "", chosen: new Map(), column: null, descending: false, count: ROWS_AT_A_TIME };
  const body = table.tBodies[0];
  const status = element("span", { role: "status" });
  const more = element("button", { type: "button", textContent: "Show more" });

  function found() {
    const kept = rows.filter((row, k) =>
      texts[k].includes(state.search) && [...state.chosen].every(([i, value]) => value === "" || row[i] === Number(value)));
    if (state.column === null) return kept;
    const i = state.column;
    const order = (one, other) => {
      const [a, b] = [shown(one, i), shown(other, i)];
      if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
      const rising = columns[i].numeric ? a - b : a < b ? -1 : a > b ? 1 : 0;
      return state.descending ? -rising : rising;
    };
    return kept.sort(order);
  }

  function draw() {
    const kept = found();
    body.replaceChildren(...kept.slice(0, state.count).map((row) => {
      const line = element("tr");
      line.append(...columns.map((column, i) =>
        element("td", { className: column.numeric ? "num" : "", textContent: shown(row, i) ?? "–" })));
      return line;
    }));
    status.textContent = `${kept.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} items`;
    more.hidden = kept.length <= state.count;
  }

  function change(values) {
    Object.assign(state, { count: ROWS_AT_A_TIME }, values);
    draw();
  }

  const search = element("input", { type: "search", placeholder: "search", ariaLabel: "Search in all columns" });
  search.addEventListener("input", () => change({ search: search.value.toLowerCase() }));
  const controls = element("div", { className: "controls" });
  controls.append(search);
  columns.forEach((column, i) => {
    if (!column.names || column.names.length < 2) return;
    const select = element("select", { ariaLabel: column.name });
    select.append(new Option(`${column.name}: all`, ""), ...column.names.map((name, k) => new Option(name || "–", k)));
    select.addEventListener("change", () => change({ chosen: new Map(state.chosen).set(i, select.value) }));
    controls.append(select);
  });
  controls.append(status);

  [...table.tHead.rows[0].cells].forEach((head, i) => {
    const button = element("button", { type: "button", textContent: head.textContent });
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const descending = state.column === i && !state.descending;
      for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      change({ column: i, descending });
    });
    head.replaceChildren(button);
  });

  more.addEventListener("click", () => {
    const before = state.count;
    state.count += 4 * ROWS_AT_A_TIME;
    draw();
    body.rows[before]?.setAttribute("tabindex", "-1");
    body.rows[before]?.focus();
  });
  const frame = table.parentElement;
  frame.before(controls);
  frame.after(more);
  frame.parentElement.querySelectorAll(".first-rows").forEach((note) => note.remove());
  draw();
}

function element(name, properties = {}) {
  const { role, ...others } = properties;
  const made = Object.assign(document.createElement(name), others);
  if (role) made.setAttribute("role", role);
  return made;
}
