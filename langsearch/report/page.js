// What all parts of the page share: unpacking, colours, drawing, words. The other scripts add to `langsearch`.
// `live` is set on the dashboard's pages alone: what its data has beside the report's.
const langsearch = { data: null, live: null };

(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const chosen = (id) => Number(byId(id)?.value ?? 0);
  const isNarrow = () => window.innerWidth < 640;

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (sign) => sign.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // Makes an element; text is always text, whatever it holds.
  function make(tag, options = {}, ...children) {
    const node = document.createElement(tag);
    const { text, dataset, ...rest } = options;
    if (text !== undefined) node.textContent = text;
    Object.assign(node.dataset, dataset);
    for (const [key, value] of Object.entries(rest)) {
      if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  // Listens on an element; asked again, it listens only on what is new on the page.
  const listening = new WeakMap();
  function listen(id, type, handler) {
    const node = byId(id);
    if (!node || listening.get(node)?.has(type)) return;
    listening.set(node, (listening.get(node) ?? new Set()).add(type));
    node.addEventListener(type, handler);
  }

  // Puts rows, cards or the like into a parent; one that is the same as before stays, with its focus and selection.
  function fill(parent, nodes) {
    nodes.forEach((node, index) => {
      const old = parent.children[index];
      if (!old) parent.append(node);
      else if (!old.isEqualNode(node)) {
        const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
        old.replaceWith(node);
        if (focused) [...node.querySelectorAll("[aria-label]")].find((other) => other.getAttribute("aria-label") === focused)?.focus({ preventScroll: true });
      }
    });
    while (parent.children.length > nodes.length) parent.lastElementChild.remove();
  }

  // A text "var(--…)" anywhere in a figure stands for a custom property of the page.
  function coloured(value, style) {
    if (typeof value === "string") {
      return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
    }
    return value;
  }

  function axis(own) {
    const shared = { gridcolor: "var(--grid)", linecolor: "var(--rule)", zeroline: false, automargin: true };
    return { ...shared, ...own, tickfont: { color: "var(--muted)", ...own.tickfont } };
  }

  const VIRIDIS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"].map((colour, index) => [index / 4, colour]);
  const channels = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

  // Black or white, whichever stands out more on a colour of a scale; Plotly's own grey is faint on the middle ones.
  function inkOn(scale, share) {
    const next = Math.max(scale.findIndex(([place]) => place >= share), 1);
    const [[from, first], [to, last]] = [scale[next - 1], scale[next]];
    const part = (share - from) / (to - from || 1);
    const [red, green, blue] = channels(first).map((value, index) => {
      const mixed = (value + part * (channels(last)[index] - value)) / 255;
      return mixed <= 0.04045 ? mixed / 12.92 : ((mixed + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
  }

  // The numbers of a heat map's cells, as a trace above it: only there has each a colour of its own.
  function numbersOf(trace) {
    const values = trace.z.flat().filter((value) => value !== null);
    const low = trace.zmin ?? Math.min(...values);
    const high = trace.zmax ?? Math.max(...values);
    const scale = Array.isArray(trace.colorscale) ? trace.colorscale : VIRIDIS;
    const found = { x: [], y: [], text: [], ink: [] };
    trace.z.forEach((row, down) => row.forEach((value, along) => {
      if (value === null) return;
      found.x.push(trace.x ? trace.x[along] : along);
      found.y.push(trace.y ? trace.y[down] : down);
      found.text.push(trace.text ? trace.text[down][along] : String(Number(value.toPrecision(3))));
      found.ink.push(inkOn(scale, Math.min(Math.max((value - low) / (high - low || 1), 0), 1)));
    }));
    const font = { ...trace.textfont, color: found.ink };
    return { type: "scatter", mode: "text", x: found.x, y: found.y, text: found.text, textfont: font, hoverinfo: "skip", showlegend: false };
  }

  function withNumbers(traces) {
    const told = traces.filter((trace) => trace.type === "heatmap" && trace.texttemplate);
    const bare = traces.map((trace) => (told.includes(trace) ? { ...trace, text: null, texttemplate: null, colorscale: Array.isArray(trace.colorscale) ? trace.colorscale : VIRIDIS } : trace));
    return [...bare, ...told.map(numbersOf)];
  }

  // Zoom and hidden traces are kept while `revision` is the same.
  function draw(id, figure, revision = "") {
    const node = byId(id);
    if (!node || !figure) return;
    const style = getComputedStyle(root);
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.getPropertyValue("--font"), size: 13, color: "var(--ink)" },
      hoverlabel: { bgcolor: "var(--surface)", bordercolor: "var(--muted)", font: { color: "var(--ink)" }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--front)" },
      height: 460,
      autosize: true,
      // A finger that moves over a figure scrolls the page.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      uirevision: `${id} ${revision}`,
      ...figure.layout,
    };
    if (isNarrow()) layout.font = { ...layout.font, size: 11 };
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = axis(layout[key]);
    const config = {
      displaylogo: false,
      displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
      responsive: true,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { filename: id, scale: 2 },
    };
    // What is said of its lines is true of this view.
    const said = byId(`${id}-words`);
    if (said && figure.words !== undefined) said.textContent = figure.words;
    Plotly.react(node, withNumbers(coloured(figure.data, style)), coloured(layout, style), config);
    if (!node.dataset.pins) {
      node.dataset.pins = "true";
      node.on("plotly_click", (event) => {
        const name = trialOf(event.points[0]);
        if (name !== null) langsearch.pin(name);
      });
    }
  }

  // The trial that a point of a figure belongs to: `meta` has a name for each point, or one for the trace.
  function trialOf(point) {
    const meta = point?.data.meta;
    if (!Array.isArray(meta) || !meta.length) return null;
    const name = meta.length === point.data.x.length ? meta[point.pointNumber] : meta.length === 1 ? meta[0] : point.customdata;
    return langsearch.data.trials?.name.includes(name) ? name : null;
  }

  // Arrow keys move over the points of a figure, Enter pins the one that is shown.
  function withKeys(id, traceName, statusId) {
    const node = byId(id);
    let place = -1;
    listen(id, "keydown", (event) => {
      const curve = node.data?.findIndex((trace) => trace.name === traceName) ?? -1;
      if (curve < 0) return;
      const trace = node.data[curve];
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) {
        event.preventDefault();
        place = (Math.max(place, step > 0 ? -1 : 0) + step + trace.x.length) % trace.x.length;
        Plotly.Fx.hover(node, [{ curveNumber: curve, pointNumber: place }]);
        byId(statusId).textContent = langsearch.describe(trace.meta[place]);
      } else if (event.key === "Enter" && place >= 0 && place < trace.x.length) {
        langsearch.pin(trace.meta[place]);
      }
    });
    listen(id, "blur", () => { Plotly.Fx.unhover(node, []); });
  }

  function view(figures, id) {
    const figure = figures[chosen(id)];
    if (!figure || !isNarrow()) return figure;
    const legend = { ...figure.layout.legend, y: -0.2, yanchor: "top" };
    return { ...figure, layout: { ...figure.layout, height: 440, legend, margin: { ...figure.layout.margin, t: 8 } } };
  }

  const MISSING = "–";
  const signed = (value, digits = 2) => (Math.abs(value) < 0.5 * 10 ** -digits ? (0).toFixed(digits) : (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−"));
  const words = {
    MISSING,
    signed,
    fixed: (value, digits = 2) => (value === null || value === undefined ? MISSING : value.toFixed(digits).replace("-", "−")),
    count(value) {
      if (value === null || value === undefined) return MISSING;
      for (const [unit, size] of [["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
        if (value >= size * 0.9995) return (value / size).toPrecision(3).replace(/\.$/, "") + unit;
      }
      return String(value);
    },
    percent(value) {
      if (value === null || value === undefined) return MISSING;
      if (value === 0 || value >= 99.95) return value.toFixed(0);
      return value >= 9.995 ? value.toFixed(1) : value >= 0.01 ? value.toFixed(2) : value.toPrecision(1);
    },
    duration(seconds) {
      if (seconds === null || seconds === undefined) return MISSING;
      if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
      const whole = Math.round(seconds);
      const two = (value) => String(value).padStart(2, "0");
      if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
      return `${Math.floor(whole / 3600).toLocaleString("en")} h ${two(Math.floor((whole % 3600) / 60))} min`;
    },
    memory(bytes) {
      if (bytes === null || bytes === undefined) return MISSING;
      return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(0)} MiB`;
    },
    interval: (score) => (score && score[1] !== null && score[2] !== null ? `${score[1].toFixed(2)}–${score[2].toFixed(2)}` : MISSING),
  };

  Object.assign(langsearch, { root, byId, chosen, isNarrow, unpack, make, listen, fill, coloured, draw, view, withKeys, words });
})();
