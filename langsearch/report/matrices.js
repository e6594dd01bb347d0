// The matrices: scores by direction and class pair, ranks by language and place, demand by language.
(() => {
  const { chosen, isNarrow, words } = langsearch;

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

  // Means over the measured directions from one class to another.
  function byClassPair() {
    const { classes, members } = langsearch.data.scores;
    const names = [...new Set(classes)];
    const average = (matrix) => {
      const cells = names.map(() => names.map(() => [0, 0]));
      matrix.forEach((row, src) => row.forEach((value, tgt) => {
        if (value === null) return;
        const cell = cells[names.indexOf(classes[src])][names.indexOf(classes[tgt])];
        cell[0] += value;
        cell[1] += 1;
      }));
      return cells.map((row) => row.map(([sum, count]) => (count ? sum / count : null)));
    };
    return { languages: names.map((name) => name || "no class"), classes: names, members: members.map(average) };
  }

  function scoreFigure() {
    const byClass = langsearch.byId("score-grain")?.value === "class";
    const { languages, classes, members } = byClass ? byClassPair() : langsearch.data.scores;
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
    const limit = z.flat().reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0.1);
    const isZeroShot = (src, tgt) => !byClass && (langsearch.data.scores.zero_shot?.[src][tgt] ?? false);
    const digits = (value, mark) => {
      if (value === null) return "";
      return `${reference ? words.signed(value, 1) : words.fixed(value, 1)}${mark}`;
    };
    const isSmall = languages.length <= (isNarrow() ? 9 : 16);
    const hover = z.map((row, src) =>
      row.map((value, tgt) => [
        `${languages[src]} → ${languages[tgt]}`,
        !byClass && classes[src] && classes[tgt] ? `${classes[src]} → ${classes[tgt]}` : "",
        value === null ? "not measured" : `${reference ? words.signed(value) : words.fixed(value)} spBLEU${isZeroShot(src, tgt) ? ", zero-shot" : ""}`,
      ]),
    );
    const trace = {
      type: "heatmap",
      z,
      customdata: hover,
      hovertemplate: "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
      hoverongaps: false,
      xgap: languages.length <= 60 ? 1 : 0,
      ygap: languages.length <= 60 ? 1 : 0,
      colorscale: reference
        ? [[0, "var(--worse)"], [0.5, "var(--neutral)"], [1, "var(--better)"]]
        : "Viridis",
      colorbar: { title: { text: reference ? "difference" : "spBLEU", side: "right" }, thickness: 12, outlinewidth: 0, len: 0.9 },
      showscale: !isNarrow(),
    };
    if (reference) Object.assign(trace, { zmin: -limit, zmax: limit });
    if (isSmall) Object.assign(trace, { text: z.map((row, src) => row.map((value, tgt) => digits(value, isZeroShot(src, tgt) ? "°" : ""))), texttemplate: "%{text}", textfont: { size: isNarrow() ? 9 : 12 } });
    const side = Math.max(320, Math.min(34 * languages.length, Math.max(640, 8 * languages.length)), byClass ? 90 * languages.length : 0);
    const across = isNarrow() ? window.innerWidth - 90 : 1000;
    const labels = (room) => {
      const every = Math.ceil((languages.length * 11) / room);
      const shownOnes = languages.map((_, index) => index).filter((index) => index % every === 0);
      return { tickvals: shownOnes, ticktext: shownOnes.map((index) => languages[index]), showgrid: false, ticks: "", tickfont: languages.length > 60 ? { size: 9 } : {} };
    };
    return {
      data: [trace],
      layout: {
        height: side + 90,
        xaxis: { ...labels(across), side: "top", title: { text: "to" }, range: [-0.5, languages.length - 0.5], tickangle: languages.length > 16 ? -90 : 0 },
        yaxis: { ...labels(side), title: { text: "from" }, range: [languages.length - 0.5, -0.5] },
        margin: { l: 48, r: 8, t: 56, b: 16 },
        shapes: byClass ? [] : classLines(classes, true, true),
      },
    };
  }

  // Mean ranks over the adapted sites of each layer, or of each module of a stack.
  function groupedRanks(languages, classes, sites, shown, grain) {
    const places = sites.map(([stack, layer, module]) => `${stack} ${grain === "layer" ? layer : module}`);
    const columns = [...new Set(places)];
    const z = shown.ranks.map((row) =>
      columns.map((name) => {
        const own = row.filter((_, site) => places[site] === name && shown.sides[site] !== "");
        return own.length ? own.reduce((sum, rank) => sum + rank, 0) / own.length : null;
      }),
    );
    const isSmall = columns.length * languages.length <= (isNarrow() ? 60 : 320);
    return {
      data: [{
        type: "heatmap",
        z,
        x: columns,
        y: languages,
        colorscale: "Viridis",
        hoverongaps: false,
        xgap: 1,
        ygap: 2,
        colorbar: { title: { text: "mean rank", side: "right" }, thickness: 12, outlinewidth: 0, len: 0.9 },
        showscale: !isNarrow(),
        hovertemplate: "<b>%{y}</b> · %{x}<br>mean rank %{z:.2f}<extra></extra>",
        ...(isSmall ? { texttemplate: "%{z:.3~g}" } : {}),
      }],
      layout: {
        height: Math.max(300, Math.min(26 * languages.length, Math.max(640, 9 * languages.length)) + 150),
        xaxis: { type: "category", showgrid: false, range: [-0.5, columns.length - 0.5] },
        yaxis: { type: "category", range: [languages.length - 0.5, -0.5], showgrid: false },
        margin: { l: 48, r: 8, t: 8, b: 56 },
        shapes: classLines(classes, true, false),
      },
    };
  }

  // What each language has: its ranks summed over all places, by side, and what it gains over the pretrained base.
  function demandFigure() {
    const { languages, sites, members, names } = langsearch.data.ranks;
    const shown = members[chosen("rank-member")];
    if (!shown) return null;
    const sum = (side) => shown.ranks.map((row) => row.reduce((total, rank, site) => total + ([side, "both"].includes(shown.sides[site]) ? rank : 0), 0));
    const bar = (side, name, colour) => ({
      type: "bar",
      name,
      x: languages,
      y: sum(side),
      marker: { color: colour },
      hovertemplate: `<b>%{x}</b><br>%{y} ranks over ${sites.length} places, ${name}<extra></extra>`,
    });
    const data = [bar("src", "picked by the source", "var(--src)"), bar("tgt", "picked by the target", "var(--tgt)")];
    const scores = langsearch.data.scores;
    const mine = scores.members[scores.names.indexOf(names[chosen("rank-member")])];
    const theirs = scores.members[scores.names.indexOf(langsearch.data.pretrained)];
    if (mine && theirs) {
      const mean = (index, isFrom) => {
        const cells = languages.map((_, other) => {
          const [src, tgt] = isFrom ? [index, other] : [other, index];
          const [left, right] = [mine[src][tgt], theirs[src][tgt]];
          return left === null || right === null ? null : left - right;
        }).filter((value) => value !== null);
        return cells.length ? cells.reduce((total, value) => total + value, 0) / cells.length : null;
      };
      const mark = (name, isFrom, symbol) => ({
        type: "scatter",
        mode: "markers",
        yaxis: "y2",
        name,
        x: languages,
        y: languages.map((_, index) => mean(index, isFrom)),
        marker: { symbol, size: 9, color: isFrom ? "var(--src)" : "var(--tgt)", line: { color: "var(--ink)", width: 1 } },
        hovertemplate: `<b>%{x}</b><br>%{y:+.2f} spBLEU to pretrained, ${name}<extra></extra>`,
      });
      data.push(mark("gain of directions from it", true, "triangle-left"), mark("gain of directions into it", false, "triangle-right"));
    }
    const hasGains = data.length > 2;
    return {
      data,
      layout: {
        height: hasGains ? 480 : 320,
        barmode: "stack",
        xaxis: { type: "category", showgrid: false, anchor: "y", tickangle: languages.length > 24 ? -90 : 0 },
        yaxis: { title: { text: "sum of ranks" }, domain: hasGains ? [0, 0.52] : [0, 1] },
        ...(hasGains ? { yaxis2: { title: { text: "to pretrained" }, domain: [0.6, 1], zeroline: true, zerolinecolor: "var(--muted)" } } : {}),
        legend: { orientation: "h", x: 0, y: isNarrow() ? -0.2 : 1.02, yanchor: isNarrow() ? "top" : "bottom" },
        margin: { l: 56, r: 8, t: isNarrow() ? 8 : 40, b: 40 },
      },
    };
  }

  const MODULE_WORDS = { q_proj: "q", k_proj: "k", v_proj: "v", out_proj: "out" };

  function rankFigure() {
    const { languages, classes, sites, members } = langsearch.data.ranks;
    const whole = members[chosen("rank-member")];
    if (!whole) return null;
    const grain = langsearch.byId("rank-grain")?.value ?? "site";
    const onSide = langsearch.byId("rank-side")?.value ?? "";
    const shown = {
      sides: whole.sides.map((name) => (onSide === "" || name === onSide || name === "both" ? name : "")),
      ranks: whole.ranks.map((row) => row.map((rank, site) => (onSide === "" || [onSide, "both"].includes(whole.sides[site]) ? rank : 0))),
    };
    if (grain !== "site") return groupedRanks(languages, classes, sites, shown, grain);
    const siteWords = ([stack, layer, module]) =>
      `${stack} layer ${layer}, ${module.replace("cross_", "cross-attention ").replace(/(q|k|v|out)_proj/, (name) => MODULE_WORDS[name])}`;
    const z = shown.ranks.map((row) => row.map((rank) => (rank > 0 ? Math.log2(rank) : null)));
    const values = [...new Set(members.flatMap((member) => member.ranks.flat()))].filter((rank) => rank > 0).sort((a, b) => a - b);
    const step = Math.ceil(values.length / 8);
    const ticks = values.filter((_, index) => index % step === 0 || index === values.length - 1);
    const side = { src: "source", tgt: "target", both: "source and the target", "": "" };
    const labels = sites.map(siteWords);
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
      ygap: languages.length <= 60 ? 2 : 0,
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
      z: [shown.sides.map((name) => (name === "" ? null : name === "both" ? 0.5 : name === "src" ? 0 : 1))],
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
        height: Math.max(280, Math.min(26 * languages.length, Math.max(780, 9 * languages.length)) + 130) + (isNarrow() ? 70 : 0),
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

  Object.assign(langsearch, { scoreFigure, rankFigure, demandFigure });
})();
