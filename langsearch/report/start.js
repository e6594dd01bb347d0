// Unpacks the values and Plotly, draws everything, and listens.
(async () => {
  const { byId, root, draw, view, make, unpack, listen } = langsearch;
  langsearch.data = JSON.parse(await unpack("report-data"));
  // The dashboard serves Plotly as a file of its own.
  if (byId("plotly")) document.head.append(make("script", { text: await unpack("plotly") }));

  const figures = {
    "front-plot": () => view(langsearch.data.front, "front-view"),
    "score-plot": langsearch.scoreFigure,
    "rank-plot": langsearch.rankFigure,
    "demand-plot": langsearch.demandFigure,
    "curve-plot": () => view(langsearch.data.curves, "curve-view"),
    "importance-plot": () => view(langsearch.data.importance, "none"),
    "timeline-plot": () => view(langsearch.data.timeline, "none"),
    "choice-plot": () => view(langsearch.data.choices, "choice-view"),
    "prior-plot": () => view(langsearch.data.priors, "prior-view"),
    "comparison-plot": () => view(langsearch.data.comparison, "comparison-view"),
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
    "choice-view": ["choice-plot"],
    "prior-view": ["prior-plot"],
    "comparison-view": ["comparison-plot"],
  };
  const drawn = new Set();
  const stale = new Set();
  const inSight = new Set();
  const choices = (id) => Object.keys(controls).filter((name) => controls[name].includes(id)).map((name) => byId(name)?.value).join(" ");
  const redraw = (id) => {
    if (!byId(id)) return;
    draw(id, figures[id](), choices(id));
    drawn.add(id);
    stale.delete(id);
  };
  // What was never in sight is not drawn yet, unless everything is asked for.
  const redrawAll = (isEverything) => {
    for (const id of Object.keys(figures)) if (isEverything || drawn.has(id)) redraw(id);
    langsearch.parallel.draw();
  };
  const sight = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        inSight[isIntersecting ? "add" : "delete"](target.id);
        if (isIntersecting && (!drawn.has(target.id) || stale.has(target.id))) redraw(target.id);
      }
    },
    { rootMargin: "600px" },
  );
  // Listens on what is on the page now, and shows what the data has now.
  const start = () => {
    for (const [control, plots] of Object.entries(controls)) listen(control, "change", () => plots.forEach(redraw));
    for (const id of Object.keys(figures)) if (byId(id)) sight.observe(byId(id));
    langsearch.withKeys("front-plot", "front", "front-status");
    langsearch.startPins();
    langsearch.startTable();
    langsearch.startTranslations();
    langsearch.parallel.start();
    listen("copy", "click", copy);
  };
  // Takes other data, and draws anew what is in sight; the rest once it is.
  langsearch.update = (data) => {
    langsearch.data = data;
    start();
    for (const id of drawn) (inSight.has(id) ? redraw(id) : stale.add(id));
  };
  redraw("front-plot");
  start();

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

  async function copy(event) {
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
  }
  root.dataset.ready = "true";
})();
