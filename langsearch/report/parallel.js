// Parallel coordinates on a canvas: a line for each trial, an axis for each dimension. Plotly's needs WebGL.
langsearch.parallel = (() => {
  const { byId, make, words, root, listen } = langsearch;
  // Viridis, without the end that the background would hide.
  const INNER = ["#414487", "#2a788e", "#22a884", "#7ad151"];
  const RAMPS = { light: ["#440154", ...INNER, "#d8c01c"], dark: ["#8a63b0", "#6a7fd0", ...INNER.slice(1), "#fde725"] };
  const isDark = () => root.dataset.print === undefined && matchMedia("(prefers-color-scheme: dark)").matches;
  const [TOP, BOTTOM, STEP] = [14, 30, 104];
  const BANDS = ["all", "top quarter", "upper middle quarter", "lower middle quarter", "lowest quarter"];
  const MAX_AXES = 24;
  let axes = [];
  let lines = [];
  let numLeftOut = 0;
  let drawnOn = null;

  function axisOf(name, values) {
    const known = values.filter((value) => value !== null);
    const isNumber = known.every((value) => typeof value === "number");
    const steps = [...new Set(known)].sort((a, b) => (isNumber ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
    if (!isNumber) return { name, places: values.map((value) => (value === null ? null : steps.length > 1 ? steps.indexOf(value) / (steps.length - 1) : 0.5)), low: String(steps[0]), high: String(steps[steps.length - 1]), band: 0 };
    const [low, high] = [steps[0], steps[steps.length - 1]];
    const isLog = low > 0 && high >= 20 * low;
    const scale = (value) => (isLog ? Math.log(value) : value);
    const width = scale(high) - scale(low) || 1;
    const short = (value) => (Math.abs(value) >= 1000 ? words.count(value) : String(Number(value.toPrecision(3))));
    return { name, places: values.map((value) => (value === null ? null : high === low ? 0.5 : (scale(value) - scale(low)) / width)), low: short(low), high: short(high), band: 0 };
  }

  function setUp() {
    const { trials } = langsearch.data;
    const scores = trials.validation.map((score) => (score ? score[0] : null));
    const kept = scores.map((score, index) => (score !== null && trials.kind[index] === "searched" ? index : -1)).filter((index) => index >= 0);
    const pick = (values) => kept.map((index) => values[index]);
    const dimensions = Object.entries(trials.params).map(([name, values]) => [name, pick(values)]).filter(([, values]) => new Set(values).size > 1);
    const order = new Map((langsearch.data.importance[0]?.data ?? []).flatMap((trace) => trace.y.map((name, index) => [name, index])));
    dimensions.sort(([a], [b]) => (order.get(a) ?? 1e9) - (order.get(b) ?? 1e9) || a.localeCompare(b));
    numLeftOut = Math.max(0, dimensions.length - MAX_AXES);
    const buttons = new Map(axes.map(({ name, button }) => [name, button]));
    const kinds = new Map(axes.map(({ name, band, range }) => [name, { band, range }]));
    axes = dimensions.slice(0, MAX_AXES).map(([name, values]) => axisOf(name, values));
    if (!kept.length || !axes.length) return false;
    axes.push(axisOf("trainable parameters", pick(trials.parameters)), axisOf("spBLEU", pick(scores)));
    const last = axes[axes.length - 1];
    lines = kept.map((trial, index) => ({ trial, index, shade: last.places[index] })).sort((a, b) => a.shade - b.shade);
    axes.forEach((axis) => {
      Object.assign(axis, kinds.get(axis.name));
      axis.button = buttons.get(axis.name) ?? make("button", { type: "button", title: axis.name, onclick: () => press(axis.name) });
    });
    const heads = byId("parallel-heads");
    const isSame = heads.children.length === axes.length && axes.every((axis, index) => axis.button === heads.children[index]);
    if (!isSame) heads.replaceChildren(...axes.map((axis) => axis.button));
    return true;
  }

  function press(name) {
    const axis = axes.find((other) => other.name === name);
    Object.assign(axis, { band: (axis.band + 1) % BANDS.length, range: null });
    draw();
  }

  const range = (axis) => axis.range ?? (axis.band ? [1 - axis.band / 4, 1 - (axis.band - 1) / 4] : [0, 1]);
  const isIn = (line) => axes.every((axis) => {
    const [low, high] = range(axis);
    if (low === 0 && high === 1) return true;
    const place = axis.places[line.index];
    return place !== null && place >= low - 1e-9 && place <= high + 1e-9;
  });

  function colour(share, ramp) {
    const at = Math.min(share, 0.9999) * (ramp.length - 1);
    const [from, to] = [ramp[Math.floor(at)], ramp[Math.floor(at) + 1]];
    const part = (text, index) => parseInt(text.slice(1 + 2 * index, 3 + 2 * index), 16);
    return `rgb(${[0, 1, 2].map((index) => Math.round(part(from, index) + (at % 1) * (part(to, index) - part(from, index)))).join(" ")})`;
  }

  function draw() {
    const canvas = byId("parallel-canvas");
    if (!canvas || !axes.length) return;
    const box = canvas.closest(".scroll");
    const width = Math.max(box.clientWidth, STEP * axes.length);
    const height = 340;
    const ratio = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
    byId("parallel-heads").style.width = `${width}px`;
    const style = getComputedStyle(root);
    const ink = (name) => style.getPropertyValue(name).trim();
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    const x = (index) => (width / axes.length) * (index + 0.5);
    const y = (place) => TOP + (1 - place) * (height - TOP - BOTTOM);
    const stroke = (line) => {
      pen.beginPath();
      let isDown = false;
      axes.forEach((axis, index) => {
        const place = axis.places[line.index];
        if (place === null) { isDown = false; return; }
        if (isDown) pen.lineTo(x(index), y(place));
        else pen.moveTo(x(index), y(place));
        isDown = true;
      });
      pen.stroke();
    };
    const inside = lines.filter(isIn);
    pen.lineWidth = 1;
    if (inside.length < lines.length) {
      pen.strokeStyle = ink("--grid");
      const step = Math.ceil(lines.length / 1500);
      lines.forEach((line, index) => { if (index % step === 0) stroke(line); });
    }
    pen.lineWidth = inside.length > 800 ? 0.7 : 1.3;
    const ramp = isDark() ? RAMPS.dark : RAMPS.light;
    pen.globalAlpha = inside.length > 800 ? 0.45 : 0.85;
    for (const line of inside) { pen.strokeStyle = colour(line.shade, ramp); stroke(line); }
    pen.globalAlpha = 1;
    pen.font = `11px ${ink("--font")}`;
    pen.textAlign = "center";
    axes.forEach((axis, index) => {
      const [low, high] = range(axis);
      pen.strokeStyle = ink("--muted");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x(index), y(0));
      pen.lineTo(x(index), y(1));
      pen.stroke();
      if (low > 0 || high < 1) {
        pen.strokeStyle = ink("--front");
        pen.lineWidth = 5;
        pen.beginPath();
        pen.moveTo(x(index), y(Math.max(0, low)));
        pen.lineTo(x(index), y(Math.min(1, high)));
        pen.stroke();
      }
      pen.fillStyle = ink("--muted");
      pen.fillText(axis.high, x(index), TOP - 4);
      pen.fillText(axis.low, x(index), height - BOTTOM + 14);
      const word = axis.range ? "a range" : BANDS[axis.band];
      axis.button.textContent = axis.name.replace(/([._])/g, "$1\u200b"); // a name may break behind its dots
      axis.button.setAttribute("aria-label", `${axis.name}: ${word}`);
      axis.button.classList.toggle("on", word !== "all");
    });
    byId("parallel-count").textContent = `${inside.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")} trials${numLeftOut ? `; ${numLeftOut} settings are left out` : ""}`;
  }

  // A drag along an axis keeps what lies in it; a click on an axis keeps all again.
  function watch() {
    const canvas = byId("parallel-canvas");
    if (drawnOn === canvas) return;
    drawnOn = canvas;
    new ResizeObserver(draw).observe(canvas.closest(".scroll"));
    let drag = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const index = Math.min(axes.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * axes.length)));
      return { index, share: 1 - Math.min(1, Math.max(0, (event.clientY - box.top - TOP) / (box.height - TOP - BOTTOM))) };
    };
    canvas.addEventListener("pointerdown", (event) => { drag = place(event); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const axis = axes[drag.index];
      const ends = [drag.share, place(event).share].sort((a, b) => a - b);
      axis.band = 0;
      axis.range = ends[1] - ends[0] > 0.02 ? ends : null;
      drag = null;
      draw();
    });
    listen("parallel-reset", "click", () => {
      for (const axis of axes) Object.assign(axis, { band: 0, range: null });
      draw();
    });
  }

  return {
    draw,
    start() {
      const isEmpty = !byId("parallel-canvas") || !setUp();
      byId("parallel")?.classList.toggle("nothing", isEmpty);
      if (isEmpty) return;
      watch();
      draw();
    },
  };
})();
