// Unpacks the values and Plotly, draws everything, and listens.
(async () => {
  const { byId, root, draw, view, make, unpack } = langsearch;
  const [text, plotly] = await Promise.all([unpack("report-data"), unpack("plotly")]);
  const data = JSON.parse(text);
  langsearch.data = data;
  document.head.append(make("script", { text: plotly }));

  const figures = {
    "front-plot": () => view(data.front, "front-view"),
    "score-plot": langsearch.scoreFigure,
    "rank-plot": langsearch.rankFigure,
    "demand-plot": langsearch.demandFigure,
    "curve-plot": () => view(data.curves, "curve-view"),
    "importance-plot": () => view(data.importance, "none"),
    "timeline-plot": () => view(data.timeline, "none"),
    "prior-plot": () => view(data.priors, "prior-view"),
  };
  const controls = {
    "front-view": ["front-plot"],
    "score-member": ["score-plot"],
    "score-reference": ["score-plot"],
    "score-grain": ["score-plot"],
    "rank-member": ["rank-plot", "demand-plot"],
    "rank-grain": ["rank-plot"],
    "rank-side": ["rank-plot"],
    "curve-view": ["curve-plot"],
    "prior-view": ["prior-plot"],
  };
  const drawn = new Set();
  const redraw = (id) => {
    if (!byId(id)) return;
    draw(id, figures[id]());
    drawn.add(id);
  };
  // What was never in sight is not drawn yet, unless everything is asked for.
  const redrawAll = (isEverything) => {
    for (const id of Object.keys(figures)) if (isEverything || drawn.has(id)) redraw(id);
    langsearch.parallel.draw();
  };
  for (const [control, plots] of Object.entries(controls)) {
    byId(control)?.addEventListener("change", () => plots.forEach(redraw));
  }
  const sight = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        sight.unobserve(target);
        if (!drawn.has(target.id)) redraw(target.id);
      }
    },
    { rootMargin: "600px" },
  );
  redraw("front-plot");
  for (const id of Object.keys(figures)) if (byId(id)) sight.observe(byId(id));
  langsearch.withKeys("front-plot", "front", "front-status");
  langsearch.startPins();
  langsearch.startTable();
  langsearch.startTranslations();
  langsearch.parallel.start();

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redrawAll(false));
  matchMedia("(max-width: 639px)").addEventListener("change", () => redrawAll(false));
  // Paper is white: print in the light colours.
  window.addEventListener("beforeprint", () => {
    root.dataset.print = "";
    document.querySelectorAll("details").forEach((node) => { node.dataset.wasOpen = node.open; node.open = true; });
    redrawAll(true);
  });
  window.addEventListener("afterprint", () => {
    delete root.dataset.print;
    document.querySelectorAll("details").forEach((node) => { node.open = node.dataset.wasOpen === "true"; });
    redrawAll(true);
  });

  byId("copy")?.addEventListener("click", async (event) => {
    const button = event.currentTarget;
    const command = byId("command").textContent;
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("command"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
  root.dataset.ready = "true";
})();
