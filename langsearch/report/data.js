// Unpacks the values and Plotly, and draws the figures of the data page.
(async () => {
  const { byId, draw, make, unpack, listen, root } = langsearch;
  langsearch.data = JSON.parse(await unpack("report-data"));
  document.head.append(make("script", { text: await unpack("plotly") }));
  const figures = { "sizes-plot": ["sizes", "sizes-view"], "lengths-plot": ["lengths", "lengths-view"], "pieces-plot": ["pieces", "none"], "faults-plot": ["faults", "faults-view"], "overlap-plot": ["overlap", "overlap-view"] };
  const redraw = (id) => {
    const [name, choice] = figures[id];
    // Not by `view`: a row for each language needs its height on a narrow screen too, and leaves no room below.
    const figure = byId(id) && langsearch.data[name][langsearch.chosen(choice)];
    if (figure) draw(id, figure, byId(choice)?.value);
  };
  const redrawAll = () => Object.keys(figures).forEach(redraw);
  for (const [id, [, choice]] of Object.entries(figures)) if (byId(choice)) listen(choice, "change", () => redraw(id));
  redrawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  matchMedia("(max-width: 639px)").addEventListener("change", redrawAll);
  root.dataset.ready = "true";
})();
