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

const percent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toPrecision(2)} %`);
const number = (x) => (x === null || x === undefined ? "–" : x.toFixed(2));

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
  const nodes = [{ id: 0, label: "", parent: null, depth: 0, visits: 1 }];
  let here = 0;
  record.steps.slice(0, count).forEach((step) => {
    if (step.kind === "insert") {
      let next = nodes.find((n) => n.parent === here && n.token === step.executedId);
      if (!next) {
        next = { id: nodes.length, label: step.executed, token: step.executedId, parent: here, depth: nodes[here].depth + 1, visits: 0 };
        nodes.push(next);
      }
      here = next.id;
    } else if (step.kind === "delete" && nodes[here].parent !== null) {
      here = nodes[here].parent;
    }
    nodes[here].visits += 1;
  });
  return { nodes, here };
}

// Rows and columns of the packed row's mask as it is after `count` actions: slot i sees slot j iff j <= i < expiry[j].
export function mask(record, count) {
  const slots = record.slots.filter((slot) => slot.born < count);
  const expiry = slots.map((slot) => (slot.deleted !== null && slot.deleted < count ? slot.expiry : slots.length));
  return { slots, expiry, sees: slots.map((_, i) => slots.map((_, j) => j <= i && i < expiry[j])) };
}

function drawTape(record, cursor) {
  const line = element("div", { class: "sm-tape", role: "group", "aria-label": "Text so far" });
  line.append(element("span", { class: "sm-prompt", text: record.prompt }));
  for (const piece of tape(record, cursor)) {
    const kind = [piece.kept ? "sm-kept" : "sm-deleted", piece.forced ? "sm-forced" : "", piece.noise ? "sm-noise" : ""];
    const spoken = `${piece.label}${piece.kept ? "" : ", deleted"}${piece.forced ? ", chosen by hand" : ""}${piece.noise ? ", noise" : ""}`;
    line.append(element(piece.kept ? "span" : "del", { class: kind.join(" "), "aria-label": spoken, text: piece.label }));
  }
  const ended = cursor > 0 && record.steps[cursor - 1].ended;
  line.append(element("span", { class: "sm-cursor", text: ended ? "■" : "▏", "aria-label": ended ? "the end" : "cursor" }));
  return line;
}

function drawBars(record, cursor, act) {
  const here = cursor < record.steps.length ? record.steps[cursor] : record.next;
  const box = element("div", { class: "sm-bars", role: "group", "aria-label": "Most probable actions" });
  if (!here) {
    box.append(element("p", { class: "sm-note", text: "The trajectory has ended." }));
    return box;
  }
  const taken = cursor < record.steps.length ? here.chosenId : null;
  for (const option of here.top) {
    const name = option.kind === "delete" ? "⌫ <bkspc>" : option.kind === "end" ? "■ <eos>" : visible(option.label);
    const bar = element("button", {
      class: `sm-bar sm-${option.kind}${option.id === taken ? " sm-taken" : ""}`,
      type: "button",
      disabled: !act,
      title: act ? "take this action" : null,
      "aria-label": `${name}, probability ${percent(option.p)}${option.id === taken ? ", taken next" : ""}`,
      onclick: () => act && act(option.id),
    });
    const track = element("span", { class: "sm-track" });
    track.append(element("span", { class: "sm-fill", style: `width:${Math.max(100 * option.p, 0.4)}%` }));
    bar.append(element("span", { class: "sm-name", text: name }), track, element("span", { class: "sm-p", text: percent(option.p) }));
    box.append(bar);
  }
  if (taken !== null && !here.top.some((option) => option.id === taken)) {
    box.append(element("p", { class: "sm-note", text: `Taken next: ${visible(here.chosen)}, with probability ${percent(here.p)}.` }));
  }
  return box;
}

function drawLine(values, cursor, title, unit, seek, range) {
  const width = 260, height = 62, left = 34, right = 6, top = 8, bottom = 12;
  const finite = values.filter((v) => v !== null && Number.isFinite(v));
  const low = range ? range[0] : Math.min(0, ...finite), high = range ? range[1] : Math.max(low + 1e-6, ...finite);
  const x = (i) => left + ((width - left - right) * (i + 0.5)) / Math.max(values.length, 1);
  const y = (v) => top + (height - top - bottom) * (1 - (v - low) / (high - low));
  const at = Math.min(cursor, values.length - 1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "sm-line" });
  svg.append(shape("title", {}, `${title} at each action; now ${number(values[at])} ${unit}`));
  for (const v of [low, high]) {
    svg.append(shape("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "sm-axis" }));
    svg.append(shape("text", { x: left - 4, y: y(v) + 3.5, class: "sm-tick", "text-anchor": "end" }, v.toFixed(range ? 0 : 1)));
  }
  const points = values.map((v, i) => (v === null || !Number.isFinite(v) ? null : `${x(i)},${y(v)}`)).filter(Boolean);
  if (points.length > 1) svg.append(shape("polyline", { points: points.join(" "), class: "sm-curve" }));
  values.forEach((v, i) => {
    if (v === null || !Number.isFinite(v)) return;
    const dot = shape("circle", { cx: x(i), cy: y(v), r: i === cursor ? 4.5 : 2.2, class: i === cursor ? "sm-dot sm-now" : "sm-dot" });
    dot.addEventListener("click", () => seek(i));
    svg.append(dot);
  });
  return element("figure", { class: "sm-figure" }, element("figcaption", { text: `${title}: ${number(values[at])} ${unit}` }), svg);
}

function drawTree(record, cursor) {
  const { nodes, here } = tree(record, cursor);
  const rows = new Map();
  let next = 0;
  const place = (id) => {
    const children = nodes.filter((n) => n.parent === id);
    if (!children.length) rows.set(id, next++);
    else {
      children.forEach((child) => place(child.id));
      rows.set(id, children.reduce((sum, child) => sum + rows.get(child.id), 0) / children.length);
    }
  };
  place(0);
  const path = new Set();
  for (let id = here; id !== null; id = nodes[id].parent) path.add(id);
  const depth = Math.max(...nodes.map((n) => n.depth));
  const width = Math.max(260, 60 + 46 * depth), height = Math.max(56, 20 + 26 * next);
  const at = (n) => [24 + 46 * n.depth, 16 + 26 * rows.get(n.id)];
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "sm-tree", style: `min-width:${Math.min(width, 900)}px` });
  svg.append(shape("title", {}, `${nodes.length} distinct states; the policy is in one ${nodes[here].depth} tokens beyond the prompt`));
  for (const n of nodes) {
    if (n.parent === null) continue;
    const [x1, y1] = at(nodes[n.parent]), [x2, y2] = at(n);
    svg.append(shape("line", { x1, y1, x2, y2, class: path.has(n.id) ? "sm-edge sm-on" : "sm-edge" }));
  }
  for (const n of nodes) {
    const [x, y] = at(n);
    svg.append(shape("circle", { cx: x, cy: y, r: 12, class: `sm-node${path.has(n.id) ? " sm-on" : ""}${n.id === here ? " sm-here" : ""}` }));
    svg.append(shape("text", { x, y: y + 4, class: "sm-label", "text-anchor": "middle" }, n.parent === null ? "•" : visible(n.label).slice(0, 4)));
  }
  return element("figure", { class: "sm-figure sm-scroll" },
    element("figcaption", { text: `States visited: ${nodes.length}. A deletion goes back to a state that is there already.` }), svg);
}

function drawMask(record, cursor) {
  const { slots, expiry, sees } = mask(record, cursor);
  const shown = Math.min(slots.length, 48), first = slots.length - shown;
  const cell = Math.max(4, Math.min(12, Math.floor(240 / Math.max(shown, 1)))), size = cell * shown;
  const svg = shape("svg", { viewBox: `0 0 ${size + 2} ${size + 2}`, width: size + 2, height: size + 2, role: "img", class: "sm-mask" });
  const gone = expiry.filter((e) => e < slots.length).length;
  svg.append(shape("title", {}, `Attention mask of ${slots.length} slots, of which ${gone} belong to deleted tokens`));
  for (let i = 0; i < shown; i++) {
    for (let j = 0; j <= i; j++) {
      const on = sees[first + i][first + j], dead = expiry[first + j] < slots.length;
      svg.append(shape("rect", { x: 1 + j * cell, y: 1 + i * cell, width: cell - 1, height: cell - 1,
        class: on ? (dead ? "sm-cell sm-once" : "sm-cell sm-seen") : "sm-cell sm-hidden" }));
    }
  }
  const more = first ? ` The last ${shown} of ${slots.length} are drawn.` : "";
  return element("figure", { class: "sm-figure" },
    element("figcaption", { text: `Attention mask of the packed row: one slot an inserted token.${more} Row: who looks. Column: what is seen. Striped: seen until it was deleted.` }), svg);
}

// Draws a record into `root`; returns a function that draws another one.
export function mount(root, source) {
  let record = source.record, cursor = source.cursor ?? 0, timer = null, focus = null;
  root.classList.add("sm-stepper");
  root.tabIndex = 0;
  root.setAttribute("role", "region");
  root.setAttribute("aria-label", "Stepper: a trajectory, action by action. Right arrow: step. Left arrow: back. Space: play or pause.");
  const spoken = element("div", { class: "sm-spoken", "aria-live": "polite" });

  const ended = () => cursor > 0 && record.steps[cursor - 1]?.ended;
  const atEnd = () => ended() || (!source.send && cursor >= record.steps.length);

  function stop() {
    clearInterval(timer);
    timer = null;
  }
  function seek(to) {
    cursor = Math.max(0, Math.min(to, record.steps.length));
    draw();
  }
  function forward() {
    if (cursor < record.steps.length) seek(cursor + 1);
    else if (source.send && !ended()) source.send({ type: "step" });
    else stop(), draw();
  }
  function play() {
    if (timer) stop();
    else {
      if (atEnd()) cursor = 0;
      timer = setInterval(() => (atEnd() ? (stop(), draw()) : forward()), 700);
    }
    draw();
  }
  const act = source.send ? (id) => source.send({ type: "act", at: cursor, id }) : null;

  function button(label, text, action, off) {
    return element("button", { type: "button", class: "sm-button", "aria-label": label, title: label, "data-role": label, disabled: off, text, onclick: () => { focus = label; action(); } });
  }

  function controls() {
    const row = element("div", { class: "sm-controls" });
    row.append(
      button("to the start", "⏮", () => { stop(); seek(0); }, cursor === 0),
      button("back", "◀", () => { stop(); seek(cursor - 1); }, cursor === 0),
      button(timer ? "pause" : "play", timer ? "⏸" : "▶", play, !source.send && !record.steps.length),
      button("step", "step ▶▏", () => { stop(); forward(); }, atEnd()),
      element("span", { class: "sm-count", text: `action ${cursor}${source.send ? "" : ` of ${record.steps.length}`}` }),
    );
    if (source.send) {
      const field = element("input", { type: "text", class: "sm-type", "aria-label": "Type tokens yourself", placeholder: "type tokens yourself", size: 16 });
      field.addEventListener("keydown", (event) => {
        event.stopPropagation();
        if (event.key === "Enter" && field.value) source.send({ type: "type", at: cursor, text: field.value });
      });
      row.append(field, button("insert what is typed", "insert", () => field.value && source.send({ type: "type", at: cursor, text: field.value }), ended()));
      const seed = element("input", { type: "number", class: "sm-number", "aria-label": "Seed", value: record.settings.seed, min: 0, step: 1 });
      const heat = element("input", { type: "number", class: "sm-number", "aria-label": "Temperature", value: record.settings.temperature, min: 0.05, step: 0.05 });
      const mass = element("input", { type: "number", class: "sm-number", "aria-label": "Top-p", value: record.settings.top_p, min: 0.01, max: 1, step: 0.01 });
      const greedy = element("input", { type: "checkbox", "aria-label": "Greedy" });
      greedy.checked = record.settings.greedy;
      const change = () => { stop(); source.send({ type: "settings", seed: +seed.value, temperature: +heat.value, top_p: +mass.value, greedy: greedy.checked }); };
      for (const field of [seed, heat, mass, greedy]) {
        field.addEventListener("change", change);
        field.addEventListener("keydown", (event) => event.stopPropagation());
      }
      const settings = element("div", { class: "sm-controls" });
      for (const [name, input] of [["seed", seed], ["temperature", heat], ["top-p", mass], ["greedy", greedy]]) settings.append(element("label", { text: `${name} ` }, input));
      return [row, settings];
    }
    return [row];
  }

  function draw() {
    const active = document.activeElement, role = root.contains(active) ? active.getAttribute("data-role") ?? focus : null;
    const steps = record.steps, before = steps.map((s) => s.b), here = record.next;
    const along = (values, following) => (here && following !== undefined ? [...values, following] : values);
    const done = steps.slice(0, cursor), last = done[done.length - 1];
    const read = last ? last.f : steps[0]?.f0 ?? here?.f ?? 0;
    const panels = element("div", { class: "sm-panels" },
      element("section", { "aria-label": "What the policy would do now" }, element("h4", { text: "What the policy would do now" }), drawBars(record, cursor, act)),
      element("section", { "aria-label": "Along the trajectory" }, element("h4", { text: "Along the trajectory" }),
        drawLine(along(before, here?.b), cursor, "P(<bkspc>)", "", seek, [0, 1]),
        drawLine(along(steps.map((s) => s.v), here?.v), cursor, "V(s)", "nats", seek),
        drawLine(steps.map((s) => s.r), cursor, "reward r", "nats", seek)),
      element("section", { "aria-label": "States" }, element("h4", { text: "States" }), drawTree(record, cursor)),
      element("section", { "aria-label": "Attention mask" }, element("h4", { text: "Mask" }), drawMask(record, cursor)));
    const cost = `${cursor} actions, ${read} tokens read by the model: deletions cost no forward pass.`;
    spoken.textContent = last ? `action ${cursor}: ${last.kind === "delete" ? "deleted a token" : last.kind === "end" ? "the end" : `inserted ${last.executed}`}` : "";
    const notes = [element("p", { class: "sm-note", text: cost })];
    if (record.note) notes.push(element("p", { class: "sm-note", text: record.note }));
    if (record.error) notes.push(element("p", { class: "sm-error", role: "alert", text: record.error }));
    root.replaceChildren(drawTape(record, cursor), ...controls(), ...notes, panels, spoken);
    if (role) root.querySelector(`[data-role="${role === "play" || role === "pause" ? (timer ? "pause" : "play") : role}"]`)?.focus();
  }

  root.addEventListener("keydown", (event) => {
    if (event.target !== root && event.target.tagName === "INPUT") return;
    const actions = { ArrowRight: () => { stop(); forward(); }, ArrowLeft: () => { stop(); seek(cursor - 1); }, Home: () => { stop(); seek(0); } };
    if (event.key === " " && event.target === root) actions[" "] = play;
    if (!actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  });
  draw();
  return {
    show(next, at) {
      record = next;
      cursor = Math.max(0, Math.min(at ?? cursor, record.steps.length));
      draw();
    },
    stop,
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
