// Translations side by side, in the order of what the best trial gains or loses.
(() => {
  const { byId, make, words, listen, fill } = langsearch;
  const PAGE = 12;
  let room = PAGE;
  let found = null;
  let ours = 0;

  function gain(line, name) {
    const other = found.names.indexOf(name);
    const [mine, theirs] = [line.chrf[ours], line.chrf[other]];
    return mine === null || theirs === null || theirs === undefined ? null : mine - theirs;
  }

  // A choice of order: "gain/full_finetuning", "loss/pretrained", "spread".
  function ordered() {
    const [way, name] = byId("sample-order").value.split("/");
    const direction = byId("sample-direction").value;
    const lines = found.sentences.filter((line) => direction === "" || direction === `${line.src} → ${line.tgt}`);
    if (way === "spread") return lines.filter((line) => line.spread);
    const sign = way === "gain" ? -1 : 1;
    return lines.filter((line) => gain(line, name) !== null).sort((a, b) => sign * (gain(a, name) - gain(b, name)));
  }

  function line(kind, name, text, language, note) {
    return make("div", { class: kind }, make("dt", { text: name }), make("dd", { dir: "auto", lang: language, text }), make("dd", { class: "num note", text: note ?? "" }));
  }

  function sample(entry) {
    const [src, tgt] = entry.pair;
    const heading = make("h3", { text: `${entry.src} → ${entry.tgt}` }, make("span", { class: "quiet", text: ` ${src && tgt ? `${src} → ${tgt}, ` : ""}sentence ${entry.row}` }));
    const rows = found.systems.map((name, place) =>
      entry.texts[place] === null ? null : line(place === ours ? "ours" : "", name, entry.texts[place], entry.tgt, words.fixed(entry.chrf[place], 1)),
    );
    const gains = found.names.slice(0, ours).map((name, place) => {
      const value = gain(entry, name);
      return value === null ? null : make("span", { class: value < 0 ? "worse" : "better", text: `${words.signed(value, 1)} to ${found.systems[place]}` });
    });
    return make("article", { class: "sample" }, heading,
      make("dl", {}, line("", "source", entry.source, entry.src), line("", "reference", entry.reference, entry.tgt), ...rows),
      make("p", { class: "gains" }, ...gains));
  }

  function show() {
    const lines = ordered();
    fill(byId("samples"), lines.slice(0, room).map(sample));
    byId("sample-count").textContent = `${Math.min(room, lines.length)} of ${lines.length} sentences`;
    byId("sample-more").hidden = lines.length <= room;
  }

  langsearch.startTranslations = () => {
    found = langsearch.data.translations;
    if (!found || !byId("samples")) return;
    ours = found.systems.length - 1;
    const select = byId("sample-direction");
    const { value } = select;
    const directions = [...new Set(found.sentences.map((line) => `${line.src} → ${line.tgt}`))].sort();
    select.replaceChildren(select.options[0], ...directions.map((text) => make("option", { value: text, text })));
    select.value = directions.includes(value) ? value : "";
    for (const id of ["sample-order", "sample-direction"]) listen(id, "input", () => { room = PAGE; show(); });
    listen("sample-more", "click", () => { room += 2 * PAGE; show(); });
    show();
  };
})();
