// The table of all trials, and the details of those that are pinned.
(() => {
  const { byId, make, words, listen, fill } = langsearch;
  const { MISSING } = words;
  const PAGE = 100;
  const MAX_PINS = 4;
  const SPLITS = ["validation", "full", "test"];
  const pinned = [];

  const score = (index, split = "validation") => langsearch.data.trials[split][index];
  const at = (name) => langsearch.data.trials.name.indexOf(name);
  const stateWords = (index) => langsearch.data.trials.state_words[langsearch.data.trials.state[index]];
  const stop = (index) => langsearch.live?.stopButton(langsearch.data.trials.name[index]) ?? null;

  langsearch.describe = (name) => {
    const { trials } = langsearch.data;
    const index = at(name);
    const own = score(index, "validation");
    return `${trials.label[index]}: ${words.fixed(own?.[0])} spBLEU on validation, ${words.count(trials.parameters[index])} trainable parameters, ${trials.summary[index] ?? ""}`;
  };

  // The table: [heading, class, value to sort by, cell]
  const COLUMNS = [
    ["Trial", "", (i, t) => t.name[i], (i, t) => make("th", { scope: "row" }, pinButton(t.name[i], t.label[i]))],
    ["State", "", (i, t) => t.state[i], (i, t) => make("td", {}, make("span", { class: `state ${t.state[i]}`, text: stateWords(i) }), ...badges(i), stop(i))],
    ["spBLEU", "num", (i) => score(i)?.[0] ?? null, (i) => make("td", { class: "num", text: words.fixed(score(i)?.[0]) }, score(i) ? make("small", { text: words.interval(score(i)) }) : null)],
    ["Trainable", "num", (i, t) => t.parameters[i], (i, t) => make("td", { class: "num", text: words.count(t.parameters[i]) }, t.percent[i] === null ? null : make("small", { text: `${words.percent(t.percent[i])} %` }))],
    ["Non-zero", "num", (i, t) => t.nonzero[i], (i, t) => make("td", { class: "num", text: words.count(t.nonzero[i]) })],
    ["Epochs", "num", (i, t) => t.epochs[i], (i, t) => make("td", { class: "num", text: String(t.epochs[i] ?? MISSING) }, t.max_epochs[i] === null ? null : make("span", { class: "quiet", text: `/${t.max_epochs[i]}` }))],
    ["Time", "num", (i, t) => t.seconds[i], (i, t) => make("td", { class: "num", text: words.duration(t.seconds[i]) })],
    ["Peak memory", "num", (i, t) => t.memory[i], (i, t) => make("td", { class: "num", text: words.memory(t.memory[i]) })],
    ["Architecture", "", (i, t) => t.summary[i] ?? "", (i, t) => make("td", { class: "text", text: t.summary[i] ?? "" }, reasons(i))],
  ];

  function pinButton(name, label) {
    return make("button", { type: "button", class: "pin", text: label, "aria-label": `Pin ${label}`, onclick: () => langsearch.pin(name, true) });
  }

  function badges(index) {
    const { trials } = langsearch.data;
    const found = [];
    if (trials.front[index]) found.push(make("span", { class: "badge front", text: "front" }));
    if (trials.kind[index] === "baseline") found.push(make("span", { class: "badge baseline", text: "baseline" }));
    if (trials.feasible[index] === false) found.push(make("span", { class: "badge broken", text: "violates a constraint" }));
    return found;
  }

  function reasons(index) {
    const { trials } = langsearch.data;
    const parts = [trials.cause[index], trials.violations[index] && `violates ${trials.violations[index]}`, trials.note[index], trials.links[index]];
    const text = parts.filter(Boolean).join("; ");
    return text ? make("span", { class: "quiet", text: ` (${text})` }) : null;
  }

  const collator = new Intl.Collator("en", { numeric: true });
  let sorted = null; // [column, sign]
  let room = PAGE;

  function sortBy(column) {
    // Numbers show their largest first; what is missing stays last either way.
    const [, kind] = COLUMNS[column];
    sorted = [column, sorted?.[0] === column ? -sorted[1] : kind === "num" ? -1 : 1];
    showTable();
  }

  function inOrder() {
    const { trials } = langsearch.data;
    const all = trials.name.map((_, index) => index);
    if (!sorted) return all;
    const [column, sign] = sorted;
    const [, kind, value] = COLUMNS[column];
    const keys = all.map((index) => value(index, trials));
    const isMissing = (index) => keys[index] === null || keys[index] === "";
    return all.sort((a, b) => {
      if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
      return sign * (kind === "num" ? keys[a] - keys[b] : collator.compare(keys[a], keys[b]));
    });
  }

  function isShown(index) {
    const { trials } = langsearch.data;
    const state = byId("trial-state").value;
    if (state !== "" && state !== trials.state[index] && !(state === "front" && trials.front[index]) && state !== trials.kind[index]) return false;
    const text = [trials.label[index], trials.summary[index], trials.cause[index], trials.note[index]].join(" ").toLowerCase();
    return text.includes(byId("trial-search").value.trim().toLowerCase());
  }

  function showTable() {
    const table = byId("trial-table");
    const { trials } = langsearch.data;
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.setAttribute("aria-sort", sorted?.[0] !== column ? "none" : sorted[1] > 0 ? "ascending" : "descending");
    });
    const found = inOrder().filter(isShown);
    const rows = found.slice(0, room).map((index) =>
      make("tr", { dataset: { name: trials.name[index], state: trials.state[index] } }, ...COLUMNS.map(([, , , cell]) => cell(index, trials))),
    );
    fill(table.tBodies[0], rows);
    byId("trial-count").textContent = `${rows.length.toLocaleString("en")} of ${found.length.toLocaleString("en")} rows`;
    byId("trial-more").hidden = rows.length >= found.length;
  }

  langsearch.startTable = () => {
    const table = byId("trial-table");
    if (!table) return;
    const head = table.tHead.rows[0];
    if (!head.cells.length) {
      COLUMNS.forEach(([heading, kind], column) => {
        head.append(make("th", { scope: "col", class: kind }, make("button", { type: "button", text: heading, onclick: () => sortBy(column) })));
      });
    }
    listen("trial-more", "click", () => { room += 5 * PAGE; showTable(); });
    for (const id of ["trial-state", "trial-search"]) listen(id, "input", () => { room = PAGE; showTable(); });
    showTable();
  };

  // Pinned trials: their settings, scores and curve, side by side.
  langsearch.pin = (name, isFar = false) => {
    if (at(name) < 0) return;
    const place = pinned.indexOf(name);
    if (place >= 0) pinned.splice(place, 1);
    else pinned.unshift(name);
    pinned.splice(MAX_PINS);
    showPins();
    if (place < 0) {
      byId("pin-status").textContent = `Pinned ${langsearch.describe(name)}`;
      if (isFar) byId("pins").firstElementChild?.querySelector("h3").focus();
    }
  };

  function showPins() {
    const isOpen = new Map([...byId("pins").children].map((node) => [node.dataset.name, node.querySelector("details")?.open]));
    const cards = pinned.map(card);
    for (const node of cards) node.querySelector("details")?.toggleAttribute("open", isOpen.get(node.dataset.name) === true);
    fill(byId("pins"), cards);
    byId("pin-hint").hidden = pinned.length > 0;
    byId("pins").hidden = pinned.length === 0;
  }

  function row(name, ...values) {
    return make("tr", {}, make("th", { scope: "row", text: name }), ...values.map((value) => make("td", { class: "num", text: value })));
  }

  function facts(entries) {
    const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== MISSING);
    return make("dl", { class: "facts" }, ...known.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
  }

  function card(name) {
    const { trials } = langsearch.data;
    const index = at(name);
    const close = make("button", { type: "button", class: "close", text: "Unpin", "aria-label": `Unpin ${trials.label[index]}`, onclick: () => { langsearch.pin(name); (byId("pins").querySelector("button") ?? byId("pin-name")).focus(); } });
    const node = make("article", { class: "card", dataset: { name }, "aria-label": `Trial ${trials.label[index]}` });
    node.append(make("header", {}, make("h3", { tabindex: "-1", text: trials.label[index] }), make("span", { class: `state ${trials.state[index]}`, text: stateWords(index) }), ...badges(index), stop(index), close));
    node.append(make("p", { class: "summary", text: trials.summary[index] ?? "" }));
    node.append(scoreTable(index));
    node.append(facts([
      ["Trainable", `${words.count(trials.parameters[index])}${trials.percent[index] === null ? "" : ` (${words.percent(trials.percent[index])} % of the base)`}`],
      ["Non-zero", words.count(trials.nonzero[index])],
      ["Epochs", trials.epochs[index] === null ? null : `${trials.epochs[index]}${trials.max_epochs[index] === null ? "" : ` of ${trials.max_epochs[index]}`}`],
      ["Worst class", trials.worst[index] === null ? null : `${words.fixed(trials.worst[index])} spBLEU`],
      ["chrF2", trials.chrf[index] === null ? null : words.fixed(trials.chrf[index])],
      ["Time", words.duration(trials.seconds[index])],
      ["Peak memory", words.memory(trials.memory[index])],
      ["Worker", trials.worker[index] === null ? null : trials.workers[trials.worker[index]]],
      ["Started", trials.started[index]],
      ["Ended by", trials.cause[index]],
      ["Violates", trials.violations[index]],
      ["Note", trials.note[index]],
      ["Belongs", trials.links[index]],
    ]));
    const curve = curveOf(index);
    if (curve) node.append(make("h4", { text: "Validation spBLEU by epoch" }), curve);
    const ranks = rankTable(name);
    if (ranks) node.append(make("h4", { text: "Mean rank by class" }), ranks);
    const pairs = pairTable(index);
    if (pairs) node.append(make("h4", { text: `spBLEU by class pair, ${langsearch.data.pair_splits[name] ?? "validation"}` }), make("div", { class: "scroll" }, pairs));
    const settings = Object.entries(trials.params).filter(([, values]) => values[index] !== null).map(([key, values]) => [key, String(values[index])]);
    if (settings.length) node.append(make("details", {}, make("summary", { text: `${settings.length} settings` }), facts(settings)));
    return node;
  }

  function scoreTable(index) {
    const full = at(langsearch.data.full ?? "");
    const body = SPLITS.filter((key) => score(index, key)).map((key) => {
      const own = score(index, key);
      const other = full >= 0 && full !== index ? score(full, key) : null;
      const size = [own[3] && `${own[3].toLocaleString("en")} sentences`, own[4] && `${own[4].toLocaleString("en")} directions`].filter(Boolean).join(", ");
      const line = row(langsearch.data.trials.split_words[key], words.fixed(own[0]), words.interval(own), ...(full >= 0 ? [other ? words.signed(own[0] - other[0]) : MISSING] : []));
      line.firstElementChild.append(make("small", { text: size }));
      return line;
    });
    if (!body.length) return make("p", { class: "empty", text: "It has no score." });
    const head = make("tr", {}, ...["Scored on", "spBLEU", "95 %", ...(full >= 0 ? ["to full"] : [])].map((text, place) => make("th", { scope: "col", class: place ? "num" : "", text })));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
  }

  function pairTable(index) {
    const { trials } = langsearch.data;
    const own = trials.pairs[index];
    if (!own) return null;
    const full = at(langsearch.data.full ?? "");
    const isBeside = full !== index && langsearch.data.beside_full.includes(trials.name[index]);  // scored on the same sentences
    const other = isBeside ? trials.pairs[full] : null;
    const rows = trials.pair_names.map(([src, tgt], place) => {
      if (own[place] === null) return null;
      const difference = other && other[place] !== null ? words.signed(own[place] - other[place]) : MISSING;
      return row(`${src || MISSING} → ${tgt || MISSING}`, words.fixed(own[place]), ...(full >= 0 ? [difference] : []));
    });
    const head = make("tr", {}, ...["Classes", "spBLEU", ...(full >= 0 ? ["to full"] : [])].map((text, place) => make("th", { scope: "col", class: place ? "num" : "", text })));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.filter(Boolean)));
  }

  function rankTable(name) {
    const { names, members, classes, sites } = langsearch.data.ranks;
    const member = members[names.indexOf(name)];
    if (!member) return null;
    const mean = (group, stack) => {
      const values = member.ranks.flatMap((ranks, language) => (classes[language] === group ? ranks.filter((_, site) => sites[site][0] === stack && member.sides[site] !== "") : []));
      return values.length ? Number((values.reduce((sum, rank) => sum + rank, 0) / values.length).toPrecision(3)).toString() : MISSING;
    };
    const stacks = ["encoder", "decoder"];
    const rows = [...new Set(classes)].map((group) => row(unescaped(group) || "no class", ...stacks.map((stack) => mean(group, stack))));
    const head = make("tr", {}, ...["Class", ...stacks].map((text, place) => make("th", { scope: "col", class: place ? "num" : "", text })));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  }

  // The matrices' names are escaped for Plotly.
  const unescaped = (text) => text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  function curveOf(index) {
    const points = langsearch.data.trials.curve[index].filter(([, value]) => value !== null);
    if (!points.length) return null;
    const [width, height, left, low] = [320, 120, 40, 18];
    const epochs = points.map(([epoch]) => epoch);
    const values = points.map(([, value]) => value);
    const [first, last, least, most] = [Math.min(...epochs), Math.max(...epochs), Math.min(...values), Math.max(...values)];
    const x = (epoch) => left + ((epoch - first) / (last - first || 1)) * (width - left - 10);
    const y = (value) => 8 + (1 - (value - least) / (most - least || 1)) * (height - low - 16);
    const svg = (tag, attributes, text) => {
      const node = document.createElementNS("http:" + "//www.w3.org/2000/svg", tag);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      if (text !== undefined) node.textContent = text;
      return node;
    };
    const node = svg("svg", { class: "curve", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `From ${values[0].toFixed(2)} after epoch ${first} to ${values[values.length - 1].toFixed(2)} after epoch ${last}` });
    node.append(svg("polyline", { points: points.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
    for (const [epoch, value] of points) {
      const mark = svg("circle", { cx: x(epoch), cy: y(value), r: 2.6 });
      mark.append(svg("title", {}, `epoch ${epoch}: ${value.toFixed(2)}`));
      node.append(mark);
    }
    node.append(svg("text", { x: left - 6, y: y(most) + 4, "text-anchor": "end" }, most.toFixed(2)));
    if (most > least) node.append(svg("text", { x: left - 6, y: y(least) + 4, "text-anchor": "end" }, least.toFixed(2)));
    node.append(svg("text", { x: x(first), y: height - 2, "text-anchor": "middle" }, String(first)));
    if (last > first) node.append(svg("text", { x: x(last), y: height - 2, "text-anchor": "end" }, `epoch ${last}`));
    return node;
  }

  langsearch.startPins = () => {
    if (byId("pins")) showPins();
    listen("pin-form", "submit", (event) => {
      event.preventDefault();
      const wanted = byId("pin-name").value.trim();
      const { trials } = langsearch.data;
      const index = trials.name.findIndex((name, place) => name === wanted || trials.label[place] === wanted || (/^\d+$/.test(wanted) && Number(name) === Number(wanted)));
      if (index < 0) {
        byId("pin-status").textContent = wanted ? `There is no trial ${wanted}.` : "Type a trial's number, or a baseline's name.";
        return;
      }
      if (!pinned.includes(trials.name[index])) langsearch.pin(trials.name[index]);
      byId("pin-name").value = "";
    });
  };
})();
