"use strict";
// Draws the figures from the embedded values, in the page's colours, and sorts the trial table.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const chosen = (id) => Number(byId(id)?.value ?? 0);
  const root = document.documentElement;
  const isNarrow = () => window.innerWidth < 640;

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

  function draw(id, figure) {
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
    Plotly.react(node, coloured(figure.data, style), coloured(layout, style), config);
  }

  function view(figures, id) {
    const figure = figures[chosen(id)];
    if (!figure || !isNarrow()) return figure;
    const legend = { ...figure.layout.legend, y: -0.2, yanchor: "top" };
    return { data: figure.data, layout: { ...figure.layout, height: 440, legend, margin: { ...figure.layout.margin, t: 8 } } };
  }

  // Lines between the classes, so that the blocks of the matrix show.
  function classLines(classes, across, along) {
    const lines = [];
    classes.forEach((name, index) => {
      if (index === 0 || name === classes[index - 1]) return;
      const line = { color: "var(--surface)", width: 3 };
      const at = index - 0.5;
      if (along) lines.push({ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line });
      if (across) lines.push({ type: "line", y0: at, y1: at, xref: "paper", x0: 0, x1: 1, line });
    });
    return lines;
  }

  function scoreFigure() {
    const { languages, classes, members } = data.scores;
    const shown = members[chosen("score-member")];
    const reference = members[chosen("score-reference") - 1];
    if (!shown) return null;
    const z = shown.map((row, src) =>
      row.map((value, tgt) => {
        if (!reference) return value;
        const other = reference[src][tgt];
        return value === null || other === null ? null : value - other;
      }),
    );
    const known = z.flat().filter((value) => value !== null);
    const limit = Math.max(0.1, ...known.map(Math.abs));
    const digits = (value) => {
      if (value === null) return "";
      const text = value.toFixed(1);
      return reference && value > 0 ? `+${text}` : text.replace("-", "−");
    };
    const isSmall = languages.length <= (isNarrow() ? 9 : 16);
    const hover = z.map((row, src) =>
      row.map((value, tgt) => [
        `${languages[src]} → ${languages[tgt]}`,
        classes[src] && classes[tgt] ? `${classes[src]} → ${classes[tgt]}` : "",
        value === null ? "not measured" : (reference && value > 0 ? "+" : "") + value.toFixed(2).replace("-", "−") + " spBLEU",
      ]),
    );
    const trace = {
      type: "heatmap",
      z,
      text: z.map((row) => row.map(digits)),
      customdata: hover,
      hovertemplate: "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
      hoverongaps: false,
      xgap: 1,
      ygap: 1,
      colorscale: reference
        ? [[0, "var(--worse)"], [0.5, "var(--neutral)"], [1, "var(--better)"]]
        : "Viridis",
      colorbar: { title: { text: reference ? "difference" : "spBLEU", side: "right" }, thickness: 12, outlinewidth: 0, len: 0.9 },
      showscale: !isNarrow(),
    };
    if (reference) Object.assign(trace, { zmin: -limit, zmax: limit });
    if (isSmall) Object.assign(trace, { texttemplate: "%{text}", textfont: { size: isNarrow() ? 9 : 12 } });
    const ticks = { tickvals: languages.map((_, index) => index), ticktext: languages, showgrid: false, ticks: "" };
    const side = Math.max(320, Math.min(34 * languages.length, 640, 150 + 24 * languages.length));
    return {
      data: [trace],
      layout: {
        height: side + 90,
        xaxis: { ...ticks, side: "top", title: { text: "to" }, range: [-0.5, languages.length - 0.5], tickangle: languages.length > 16 ? -90 : 0 },
        yaxis: { ...ticks, title: { text: "from" }, range: [languages.length - 0.5, -0.5] },
        margin: { l: 48, r: 8, t: 56, b: 16 },
        shapes: classLines(classes, true, true),
      },
    };
  }

  const MODULE_WORDS = { q_proj: "q", k_proj: "k", v_proj: "v", out_proj: "out" };

  function rankFigure() {
    const { languages, classes, sites, members } = data.ranks;
    const shown = members[chosen("rank-member")];
    if (!shown) return null;
    const words = ([stack, layer, module]) =>
      `${stack} layer ${layer}, ${module.replace("cross_", "cross-attention ").replace(/(q|k|v|out)_proj/, (name) => MODULE_WORDS[name])}`;
    const z = shown.ranks.map((row) => row.map((rank) => (rank > 0 ? Math.log2(rank) : null)));
    const values = [...new Set(members.flatMap((member) => member.ranks.flat()))].filter((rank) => rank > 0).sort((a, b) => a - b);
    const step = Math.ceil(values.length / 8);
    const ticks = values.filter((_, index) => index % step === 0 || index === values.length - 1);
    const side = { src: "source", tgt: "target", "": "" };
    const labels = sites.map(words);
    const columns = sites.map((_, index) => index);
    const heat = {
      type: "heatmap",
      z,
      customdata: shown.ranks.map((row, language) =>
        row.map((rank, site) => [languages[language], labels[site], rank, side[shown.sides[site]]]),
      ),
      hovertemplate:
        "<b>%{customdata[0]}</b> · rank %{customdata[2]}<br>%{customdata[1]}<br>picked by the %{customdata[3]} language<extra></extra>",
      hoverongaps: false,
      colorscale: "Viridis",
      zmin: Math.log2(ticks[0] ?? 1) - 0.5,
      zmax: Math.log2(ticks[ticks.length - 1] ?? 2) + 0.01,
      ygap: 2,
      xgap: sites.length < 80 ? 1 : 0,
      showscale: true,
      colorbar: {
        title: { text: "rank", side: isNarrow() ? "top" : "right" },
        tickvals: ticks.map(Math.log2),
        ticktext: ticks.map(String),
        thickness: 12,
        outlinewidth: 0,
        ...(isNarrow() ? { orientation: "h", y: -0.36, len: 1 } : { len: 0.9 }),
      },
    };
    const strip = {
      type: "heatmap",
      yaxis: "y2",
      z: [shown.sides.map((name) => (name === "" ? null : name === "src" ? 0 : 1))],
      customdata: [columns.map((site) => [labels[site], side[shown.sides[site]]])],
      hovertemplate: "%{customdata[0]}<br>picked by the %{customdata[1]} language<extra></extra>",
      hoverongaps: false,
      zmin: 0,
      zmax: 1,
      colorscale: [[0, "var(--src)"], [0.5, "var(--src)"], [0.5, "var(--tgt)"], [1, "var(--tgt)"]],
      showscale: false,
    };
    const layers = [];
    sites.forEach(([stack, layer], index) => {
      const last = layers[layers.length - 1];
      if (last && last.stack === stack && last.layer === layer) last.end = index;
      else layers.push({ stack, layer, start: index, end: index });
    });
    const every = isNarrow() ? Math.ceil(layers.length / 12) : 1;
    const labelled = layers.filter((_, index) => index % every === 0);
    const shapes = layers.slice(1).map((layer, index) => {
      const at = layer.start - 0.5;
      const isBorder = layer.stack !== layers[index].stack;
      const line = { color: isBorder ? "var(--muted)" : "var(--grid)", width: isBorder ? 2 : 1 };
      return { type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line };
    });
    const annotations = ["encoder", "decoder"].flatMap((stack) => {
      const own = layers.filter((layer) => layer.stack === stack);
      if (!own.length) return [];
      const x = (own[0].start + own[own.length - 1].end) / 2;
      return [{ text: `${stack} layer`, x, y: 0, yref: "paper", yanchor: "top", yshift: -24, showarrow: false, font: { color: "var(--muted)" } }];
    });
    return {
      data: [heat, strip],
      layout: {
        height: Math.max(280, 26 * languages.length + 130) + (isNarrow() ? 70 : 0),
        xaxis: {
          tickvals: labelled.map((layer) => (layer.start + layer.end) / 2),
          ticktext: labelled.map((layer) => String(layer.layer)),
          range: [-0.5, sites.length - 0.5],
          showgrid: false,
          tickangle: 0,
          anchor: "y",
        },
        yaxis: {
          tickvals: languages.map((_, index) => index),
          ticktext: languages,
          range: [languages.length - 0.5, -0.5],
          showgrid: false,
          domain: [0, 0.92],
        },
        yaxis2: { domain: [0.95, 1], showticklabels: false, showgrid: false, ticks: "", anchor: "x", fixedrange: true },
        margin: { l: 48, r: 8, t: 8, b: 56 },
        shapes: [...shapes, ...classLines(classes, true, false)],
        annotations,
      },
    };
  }

  const figures = {
    "front-plot": () => view(data.front, "front-view"),
    "score-plot": scoreFigure,
    "rank-plot": rankFigure,
    "curve-plot": () => view(data.curves, "curve-view"),
    "prior-plot": () => view(data.priors, "prior-view"),
  };
  const redraw = (id) => draw(id, figures[id]());
  const redrawAll = () => Object.keys(figures).forEach(redraw);
  const controls = {
    "front-view": "front-plot",
    "score-member": "score-plot",
    "score-reference": "score-plot",
    "rank-member": "rank-plot",
    "curve-view": "curve-plot",
    "prior-view": "prior-plot",
  };
  for (const [control, plot] of Object.entries(controls)) byId(control)?.addEventListener("change", () => redraw(plot));
  redrawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  matchMedia("(max-width: 639px)").addEventListener("change", redrawAll);
  // Paper is white: print in the light colours.
  window.addEventListener("beforeprint", () => {
    root.dataset.print = "";
    document.querySelectorAll("details").forEach((node) => { node.dataset.wasOpen = node.open; node.open = true; });
    redrawAll();
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.print;
    document.querySelectorAll("details").forEach((node) => { node.open = node.dataset.wasOpen === "true"; });
    redrawAll();
  });

  const table = byId("trial-table");
  if (table) {
    const body = table.tBodies[0];
    const headings = [...table.tHead.rows[0].cells];
    const collator = new Intl.Collator("en", { numeric: true });
    headings.forEach((heading, column) => {
      heading.firstElementChild.addEventListener("click", () => {
        const isNumber = heading.classList.contains("num");
        // Numbers show their largest first; what is missing stays last either way.
        const before = heading.getAttribute("aria-sort");
        const direction = before === "none" ? (isNumber ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
        headings.forEach((other) => other.setAttribute("aria-sort", other === heading ? direction : "none"));
        const sign = direction === "ascending" ? 1 : -1;
        const key = (row) => row.cells[column].dataset.sort;
        const rows = [...body.rows].sort((a, b) => {
          const [left, right] = [key(a), key(b)];
          if (left === "" || right === "") return (left === "") - (right === "");
          return sign * (isNumber ? Number(left) - Number(right) : collator.compare(left, right));
        });
        body.append(...rows);
      });
    });
    const filter = byId("trial-state");
    const show = () => {
      let count = 0;
      for (const row of body.rows) {
        row.hidden = filter.value !== "" && !row.dataset.state.split(" ").includes(filter.value);
        count += row.hidden ? 0 : 1;
      }
      byId("trial-count").textContent = `${count} of ${body.rows.length} trials`;
    };
    filter.addEventListener("change", show);
    show();
  }

  byId("copy")?.addEventListener("click", async (event) => {
    const button = event.currentTarget;
    const text = byId("command").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("command"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
})();
