// The stepper: one trajectory, action by action. The same module draws the live widget and its static twin.
//
// A source gives a record (see smlib/widgets/record.py) and, where it is live, takes messages. All text of a model
// enters the page through textContent, so what a policy writes is never markup.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function shape(tag, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

// Whitespace is made visible where a token stands alone.
function visible(label) {
  const shown = label.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥");
  return shown === "" ? "∅" : shown;
}

const percent = (p) => (p === 0 ? "0 %" : p < 0.0005 ? "< 0.1 %" : p >= 0.9995 ? "100 %" : p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toFixed(1)} %`);
const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(2).replace("-", "−"));
const named = (label, kind) => (kind === "delete" ? "<bkspc>" : kind === "end" ? "<eos>" : visible(label));

// Where each inserted token stands after the first `count` actions: kept, deleted, or noise that was deleted.
export function tape(record, count) {
  const pieces = [];
  const standing = [];
  record.steps.slice(0, count).forEach((step, index) => {
    if (step.kind === "insert") {
      standing.push(pieces.length);
      pieces.push({ label: step.executed, index, kept: true, forced: step.forced, noise: step.noise });
    } else if (step.kind === "delete" && standing.length) {
      pieces[standing.pop()].kept = false;
    }
  });
  return pieces;
}

// One node a distinct state: a token under the state it was inserted in. Inserted twice, it is visited again.
export function tree(record, count) {
  const nodes = [{ id: 0, label: "", parent: null, depth: 0, visits: 1, children: [] }];
  let here = 0;
  record.steps.slice(0, count).forEach((step) => {
    if (step.kind === "end") return;
    if (step.kind === "insert") {
      let next = nodes[here].children.find((id) => nodes[id].token === step.executedId);
      if (next === undefined) {
        next = nodes.length;
        nodes.push({ id: next, label: step.executed, token: step.executedId, parent: here, depth: nodes[here].depth + 1, visits: 0, children: [] });
        nodes[here].children.push(next);
      }
      here = next;
    } else if (nodes[here].parent !== null) {
      here = nodes[here].parent;
    }
    nodes[here].visits += 1;
  });
  return { nodes, here };
}

// Rows and columns of the packed row's mask as it is after `count` actions: slot i sees slot j iff j <= i < expiry[j].
// Only the last `most` slots; their numbers in the whole row start at `first`.
export function mask(record, count, most = Infinity) {
  const all = record.slots.filter((slot) => slot.born < count), left = record.slotsLeftOut ?? 0, end = left + all.length;
  const slots = all.slice(Math.max(0, all.length - most)), first = end - slots.length;
  const gone = slots.map((slot) => slot.deleted !== null && slot.deleted < count);
  const expiry = slots.map((slot, j) => (gone[j] ? slot.expiry : end));
  return { slots, first, end, gone, expiry, sees: slots.map((_, i) => slots.map((_, j) => j <= i && first + i < expiry[j])) };
}

function drawTape(line, record, cursor) {
  const pieces = [element("span", { class: "sm-prompt", text: record.prompt })];
  for (const piece of tape(record, cursor)) {
    const kind = ["sm-piece", piece.kept ? "sm-kept" : "sm-deleted", piece.forced ? "sm-forced" : "", piece.noise ? "sm-noise" : ""];
    const said = [piece.kept ? "kept" : "deleted", piece.forced ? "chosen by hand" : "", piece.noise ? "noise" : ""].filter(Boolean).join(", ");
    pieces.push(element(piece.kept ? "span" : "del", { class: kind.filter(Boolean).join(" "), title: said, text: piece.label }));
  }
  const ended = cursor > 0 && record.steps[cursor - 1].ended;
  pieces.push(element("span", { class: ended ? "sm-end" : "sm-cursor", title: ended ? "the end" : "the cursor", text: ended ? " <eos>" : "" }));
  line.replaceChildren(...pieces);
  line.scrollTop = line.scrollHeight;
}

function drawBars(record, cursor, act) {
  const here = cursor < record.steps.length ? record.steps[cursor] : record.next;
  const box = element("div", { class: "sm-bars", role: "group", "aria-label": "Most probable actions" });
  if (!here) {
    box.append(element("p", { class: "sm-note", text: "The trajectory has ended." }));
    return box;
  }
  const taken = cursor < record.steps.length ? here.chosenId : null;
  here.top.forEach((option, place) => {
    const name = named(option.label, option.kind), next = option.id === taken;
    const bar = element(act ? "button" : "div", {
      class: `sm-bar sm-${option.kind}${next ? " sm-taken" : ""}`,
      type: act ? "button" : null,
      role: act ? null : "img",
      "data-bar": place,
      title: act ? "take this action" : null,
      "aria-label": `${name}, probability ${percent(option.p)}${next ? ", taken next" : ""}`,
      onclick: () => act && act(option.id),
    });
    const fill = element("span", { class: "sm-fill", style: `width:${Math.max(100 * option.p, 0.4)}%` });
    bar.append(element("span", { class: "sm-name", text: `${next ? "▸" : " "}${name}` }), element("span", { class: "sm-track" }, fill), element("span", { class: "sm-p", text: percent(option.p) }));
    box.append(bar);
  });
  const said = [];
  if (taken !== null && !here.top.some((option) => option.id === taken)) said.push(`Taken next: ${named(here.chosen, here.kind)}, with probability ${percent(here.p)}.`);
  if (record.settings.backspace === false) said.push("This policy has no <bkspc>: what it writes stays.");
  said.push(act ? "Click a bar to take that action instead." : "Framed: the action that was taken next.");
  box.append(element("p", { class: "sm-note", text: said.join(" ") }));
  return box;
}

// Values before each action; `options`: range, a diagonal y = x, the kinds of the actions.
function drawLine(values, cursor, title, unit, seek, { range, diagonal, kinds = [], count = values.length } = {}) {
  const width = 300, height = 74, left = 40, right = 8, top = 8, bottom = 10, most = 120;
  const first = Math.max(0, Math.min(cursor - most / 2, count - most)), shown = Math.min(count, most);
  const finite = values.slice(first, first + shown).filter((v) => v !== null && v !== undefined);
  if (diagonal) finite.push(first, first + shown - 1);
  let [low, high] = range ?? [Math.min(...finite), Math.max(...finite)];
  if (!(high > low)) [low, high] = [(Number.isFinite(low) ? low : 0) - 0.5, (Number.isFinite(low) ? low : 0) + 0.5];
  const x = (i) => left + ((width - left - right) * (i - first + 0.5)) / Math.max(shown, 1);
  const y = (v) => top + (height - top - bottom) * (1 - (v - low) / (high - low));
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "sm-line" });
  svg.append(shape("title", {}, `${title} at each action; here ${number(values[cursor])} ${unit}`));
  for (const v of [low, high]) {
    svg.append(shape("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "sm-axis" }));
    svg.append(shape("text", { x: left - 4, y: y(v) + 3.5, class: "sm-tick", "text-anchor": "end" }, v.toFixed(range || diagonal ? 0 : 1).replace("-", "−")));
  }
  if (low < 0 && high > 0) svg.append(shape("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), class: "sm-axis sm-zero" }));
  if (diagonal) svg.append(shape("line", { x1: x(first), y1: y(first), x2: x(first + shown - 1), y2: y(first + shown - 1), class: "sm-diagonal" }));
  svg.append(shape("line", { x1: x(cursor), x2: x(cursor), y1: top - 4, y2: height - bottom + 4, class: "sm-here-line" }));
  const places = [];
  for (let i = first; i < first + shown; i++) if (values[i] !== null && values[i] !== undefined) places.push(i);
  if (places.length > 1) svg.append(shape("polyline", { points: places.map((i) => `${x(i)},${y(values[i])}`).join(" "), class: "sm-curve" }));
  for (const i of places) {
    const gone = kinds[i] === "delete", size = i === cursor ? 4.5 : 2.6, kind = `sm-dot${gone ? " sm-gone" : ""}${i === cursor ? " sm-now" : ""}`;
    const dot = gone
      ? shape("rect", { x: x(i) - size, y: y(values[i]) - size, width: 2 * size, height: 2 * size, class: kind })
      : shape("circle", { cx: x(i), cy: y(values[i]), r: size, class: kind });
    dot.addEventListener("click", () => seek(i));
    svg.append(dot);
  }
  return element("figure", { class: "sm-figure" }, element("figcaption", {}, `${title}: `, element("b", { text: `${diagonal ? values[cursor] : number(values[cursor])}${unit && Number.isFinite(values[cursor]) ? ` ${unit}` : ""}` })), svg);
}

function drawTree(record, cursor) {
  const { nodes, here } = tree(record, cursor);
  let base = here; // a long text: what hangs on the last states alone
  for (let up = 0; up < 12 && nodes[base].parent !== null; up++) base = nodes[base].parent;
  const from = nodes[base].depth, drawn = [], rows = new Map();
  let next = 0;
  const place = (id) => {
    drawn.push(nodes[id]);
    const children = nodes[id].depth - from < 16 && drawn.length < 120 ? nodes[id].children : [];
    children.forEach(place);
    const placed = children.filter((child) => rows.has(child));
    rows.set(id, placed.length ? placed.reduce((sum, child) => sum + rows.get(child), 0) / placed.length : next++);
  };
  place(base);
  const path = new Set();
  for (let id = here; id !== null; id = nodes[id].parent) path.add(id);
  const deepest = Math.max(...drawn.map((n) => n.depth)) - from;
  const width = Math.max(300, 64 + 46 * deepest), height = Math.max(56, 24 + 32 * next);
  const at = (n) => [24 + 46 * (n.depth - from), 20 + 32 * rows.get(n.id)];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "sm-tree", style: `min-width:${Math.min(width, 780)}px` });
  svg.append(shape("title", {}, `${nodes.length} distinct states; the policy is in one ${nodes[here].depth} tokens beyond the prompt, for the ${nodes[here].visits}. time`));
  for (const n of drawn) {
    if (n.id === base) continue;
    const [x1, y1] = at(nodes[n.parent]), [x2, y2] = at(n);
    svg.append(shape("line", { x1, y1, x2, y2, class: path.has(n.id) ? "sm-edge sm-on" : "sm-edge" }));
  }
  for (const n of drawn) {
    const [x, y] = at(n);
    const label = n.parent === null ? "•" : n.id === base ? "…" : visible(n.label).slice(0, 4);
    svg.append(shape("circle", { cx: x, cy: y, r: 12, class: `sm-node${path.has(n.id) ? " sm-on" : ""}${n.id === here ? " sm-here" : ""}` }));
    svg.append(shape("text", { x, y: y + 4, class: "sm-label", "text-anchor": "middle" }, label));
    if (n.visits > 1) svg.append(shape("text", { x: x + 11, y: y - 9, class: "sm-visits" }, `${n.visits}×`));
  }
  const part = drawn.length < nodes.length ? ` ${drawn.length} of them are drawn.` : "";
  return element("figure", { class: "sm-figure" },
    element("figcaption", { text: `${nodes.length === 1 ? "One state" : `${nodes.length} distinct states`} so far.${part} A deletion goes back to one that is there already; 2×: visited twice.` }),
    element("div", { class: "sm-scroll" }, svg));
}

function drawMask(record, cursor) {
  const { slots, first, end, gone, expiry, sees } = mask(record, cursor, 32), n = slots.length;
  const cell = n > 24 ? 8 : n > 16 ? 11 : 14, size = cell * n, room = 130;
  const svg = shape("svg", { viewBox: `0 0 ${size + room} ${size + 2}`, width: size + room, height: size + 2, role: "img", class: "sm-mask" });
  const words = slots.map((slot, j) => [slot, j]).filter(([, j]) => gone[j]).map(([slot, j]) => `slot ${first + j}, ${visible(slot.label)}, is hidden from slot ${expiry[j]} on`).join("; ");
  svg.append(shape("title", {}, `Attention mask of ${end} slots. ${words || "Nothing was deleted"}.`));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      const x = 1 + j * cell, y = 1 + i * cell, side = cell - 1, dead = gone[j];
      svg.append(shape("rect", { x, y, width: side, height: side, class: `sm-cell ${sees[i][j] ? (dead ? "sm-once" : "sm-seen") : "sm-hidden"}` }));
      if (!sees[i][j]) svg.append(shape("line", { x1: x + 2, y1: y + side - 2, x2: x + side - 2, y2: y + 2, class: "sm-slash" }));
    }
    const dead = gone[i], text = dead ? `${visible(slots[i].label)}  expiry ${expiry[i]}` : visible(slots[i].label);
    svg.append(shape("text", { x: (i + 1) * cell + 5, y: (i + 1) * cell - 2, class: dead ? "sm-row sm-dead" : "sm-row", style: `font-size:${Math.min(11, cell)}px` }, `${first + i} ${text}`));
  }
  const legend = element("p", { class: "sm-legend" });
  for (const [kind, text] of [["seen", "seen"], ["once", "seen before it was deleted"], ["hidden", "hidden after"]]) legend.append(element("span", { class: `sm-key sm-key-${kind}` }), `${text} `);
  return element("figure", { class: "sm-figure" },
    element("figcaption", { text: `One slot an inserted token${first ? ` (the last ${n} of ${end})` : ""}. Row: who looks; column: at what. A deleted token is seen until its expiry.` }),
    element("div", { class: "sm-scroll" }, svg), legend);
}

const ANSWER = 8000; // milliseconds after which a silent kernel is spoken of

// Draws a record into `root`; returns a view that shows another one. A `source` that can `send` is live.
export function mount(root, source) {
  let record = source.record, cursor = source.cursor ?? 0, timer = null, waiting = null, silent = false, filled = null;
  const live = Boolean(source.send);
  root.classList.add("sm-stepper");
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "Stepper: a trajectory, action by action. Right arrow: step. Left arrow: back. Home: start. Space: play or pause.");

  const ended = () => cursor > 0 && Boolean(record.steps[cursor - 1]?.ended);
  const atEnd = () => ended() || (!live && cursor >= record.steps.length);

  function stop() {
    clearInterval(timer);
    timer = null;
  }
  function seek(to) {
    cursor = Math.max(0, Math.min(to, record.steps.length));
    draw();
  }
  function send(message) {
    if (waiting) return;
    waiting = setTimeout(() => { waiting = null; silent = true; stop(); draw(); }, source.patience ?? ANSWER);
    source.send(message);
  }
  function forward() {
    if (cursor < record.steps.length) seek(cursor + 1);
    else if (live && !ended()) send({ type: "step" });
    else stop(), draw();
  }
  function play() {
    if (timer) stop();
    else {
      if (atEnd()) cursor = 0;
      timer = setInterval(() => (atEnd() ? (stop(), draw()) : forward()), source.pause ?? 800);
    }
    draw();
  }
  const act = live ? (id) => { stop(); send({ type: "act", at: cursor, id }); } : null;

  // What a reader can hold the focus on is made once; a button that is off keeps the focus.
  function button(label, text, action) {
    return element("button", { type: "button", class: "sm-button", "aria-label": label, title: label, text, onclick: (event) => event.currentTarget.getAttribute("aria-disabled") !== "true" && action() });
  }
  const off = (node, is) => node.setAttribute("aria-disabled", is ? "true" : "false");
  const buttons = {
    start: button("to the start", "|◀", () => { stop(); seek(0); }),
    back: button("back", "◀ back", () => { stop(); seek(cursor - 1); }),
    step: button("step", "step ▶", () => { stop(); forward(); }),
    play: button("play", "play", play),
  };
  const count = element("span", { class: "sm-count" });
  const tapeLine = element("div", { class: "sm-tape", role: "group", "aria-label": "Text so far", tabindex: -1 });
  const spoken = element("div", { class: "sm-spoken", "aria-live": "polite" }), notes = element("div"), panels = element("div", { class: "sm-panels" });
  const row = element("div", { class: "sm-controls" }, buttons.start, buttons.back, buttons.step, buttons.play, count);
  const settings = element("div", { class: "sm-controls" }), inputs = {};

  if (live) {
    const field = element("input", { type: "text", class: "sm-type", "aria-label": "Type tokens yourself", placeholder: "type tokens yourself", size: 18 });
    const insert = () => { if (field.value && !ended()) { stop(); send({ type: "type", at: cursor, text: field.value }); field.value = ""; } };
    field.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Enter") insert(); });
    buttons.insert = button("insert what is typed", "insert", insert);
    row.append(field, buttons.insert);
    const make = (name, label, attributes) => {
      inputs[name] = element("input", { "aria-label": label, ...attributes });
      inputs[name].addEventListener("keydown", (event) => event.stopPropagation());
      inputs[name].addEventListener("change", change);
      settings.append(element("label", { text: `${label} ` }, inputs[name]));
    };
    const change = () => {
      stop();
      send({ type: "settings", prompt: inputs.prompt.value === filled ? record.prompt : inputs.prompt.value, seed: +inputs.seed.value, temperature: +inputs.temperature.value, top_p: +inputs.top_p.value, greedy: inputs.greedy.checked });
    };
    make("prompt", "Prompt", { type: "text", class: "sm-promptfield" });
    make("seed", "Seed", { type: "number", class: "sm-number", min: 0, step: 1 });
    make("temperature", "Temperature", { type: "number", class: "sm-number", min: 0.05, step: 0.05 });
    make("top_p", "Top-p", { type: "number", class: "sm-number", min: 0.01, max: 1, step: 0.01 });
    make("greedy", "Greedy", { type: "checkbox" });
  }

  function fill() {
    for (const [name, input] of Object.entries(inputs)) {
      if (name === "greedy") input.checked = record.settings.greedy;
      else input.value = name === "prompt" ? record.prompt : record.settings[name];
    }
    filled = inputs.prompt?.value; // a field of one line drops line breaks: untouched, the prompt keeps them
  }

  function draw() {
    const bar = root.contains(document.activeElement) ? document.activeElement.getAttribute("data-bar") : null;
    const steps = record.steps, here = record.next, last = steps[cursor - 1], end = steps[steps.length - 1];
    const read = [steps[0]?.f0 ?? here?.f ?? 0, ...steps.map((s) => s.f)], kinds = steps.map((s) => s.kind), total = steps.length + 1;
    drawTape(tapeLine, record, cursor);
    off(buttons.start, cursor === 0);
    off(buttons.back, cursor === 0);
    off(buttons.step, atEnd());
    off(buttons.play, !live && !steps.length);
    if (buttons.insert) off(buttons.insert, ended());
    buttons.play.textContent = timer ? "pause" : "play";
    count.textContent = `action ${cursor} of ${live && !end?.ended ? "…" : steps.length}`;
    const line = (values, title, unit, options) => drawLine(values, cursor, title, unit, seek, { kinds, count: total, ...options });
    panels.replaceChildren(
      element("section", {}, element("h4", { text: "What the policy would do now" }), drawBars(record, cursor, act),
        line(read, `Tokens read by the model after ${cursor} action${cursor === 1 ? "" : "s"}`, "", { diagonal: true }),
        element("p", { class: "sm-note", text: "Dashed: one token an action. A deletion needs no forward pass." })),
      element("section", {}, element("h4", { text: "Along the trajectory" }),
        line([...steps.map((s) => s.b), here?.b], "P(<bkspc>)", "", { range: [0, 1] }),
        line([...steps.map((s) => s.v), here?.v ?? end?.vn], "Value V(s)", "nats"),
        line(steps.map((s) => s.r), "Reward r of the next action", "nats"),
        element("p", { class: "sm-note", text: "Squares: a deletion follows. Click a point to go there." })),
      element("section", {}, element("h4", { text: "States" }), drawTree(record, cursor), element("h4", { text: "Attention mask of the packed row" }), drawMask(record, cursor)));
    const standing = tape(record, cursor).filter((piece) => piece.kept).map((piece) => piece.label).join("");
    const done = last && (last.kind === "delete" ? "deleted a token" : last.kind === "end" ? "ended" : `inserted ${last.executed}`);
    spoken.textContent = last ? `Action ${cursor}: ${done}. The text is now ${standing || "the prompt alone"}.` : "At the prompt.";
    const said = [];
    if (record.note) said.push(element("p", { class: "sm-note", text: record.note }));
    if (record.error) said.push(element("p", { class: "sm-error", role: "alert", text: record.error }));
    if (silent) said.push(element("p", { class: "sm-error", role: "alert", text: "The kernel does not answer: it is busy or gone. What was recorded can be stepped through; to go on, run the cell again." }));
    notes.replaceChildren(...said);
    if (bar !== null) (panels.querySelector(`[data-bar="${bar}"]`) ?? root).focus();
  }

  root.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT" || event.ctrlKey || event.altKey || event.metaKey) return;
    const actions = { ArrowRight: () => { stop(); forward(); }, ArrowLeft: () => { stop(); seek(cursor - 1); }, Home: () => { stop(); seek(0); } };
    if (event.target === root) actions[" "] = play;
    if (!actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  });
  root.replaceChildren(tapeLine, row, settings, notes, panels, spoken);
  if (!live) settings.remove();
  fill();
  draw();
  return {
    show(next, at) {
      clearTimeout(waiting);
      waiting = null;
      silent = false;
      record = next;
      cursor = Math.max(0, Math.min(at ?? cursor, record.steps.length));
      if (!record.error) fill(); // a setting that was refused stays to be mended
      if (record.error) stop();
      draw();
    },
    stop() {
      stop();
      clearTimeout(waiting);
    },
  };
}

// anywidget's entry.
function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = mount(root, { record: model.get("record"), cursor: model.get("cursor"), send: (message) => model.send(message) });
  const change = () => view.show(model.get("record"), model.get("cursor"));
  model.on("change:record", change);
  return () => {
    view.stop();
    model.off("change:record", change);
  };
}

export default { render };
