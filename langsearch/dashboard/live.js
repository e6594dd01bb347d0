// The dashboard's pages: asks once a second whether something changed, brings the page up to date in place, and asks
// for stops. What a reader has chosen, opened, pinned, sorted, zoomed or scrolled to stays.
(() => {
  const { byId, make, listen, unpack } = langsearch;
  const { body } = document;
  const url = body.dataset.live;
  const SECOND = 1000;
  const HEADERS = { "X-Langsearch": "1" };
  let version = body.dataset.version;
  let updated = performance.now();
  let wait = 0;

  const say = (text) => { if (byId("live-status").textContent !== text) byId("live-status").textContent = text; };

  // Makes a part of the page like a fresh one. Elements stay themselves, so that listeners, focus and figures do.
  function morph(old, fresh) {
    if (fresh.hasAttribute("data-own")) return; // the scripts', or the reader's
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const kept = fresh.hasAttribute("data-own-class") ? ["open", "style", "class"] : ["open", "style"];
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !name.startsWith("data-") && !kept.includes(name)) old.removeAttribute(name);
    }
    if (old.tagName === "SELECT") morphSelect(old, fresh);
    else if (old.tagName !== "INPUT") morphChildren(old, fresh);
  }

  // An option that the reader has chosen stays chosen, wherever it stands now.
  const plain = (text) => text.trim().replace(/ \([^()]*\)$/, "");
  function morphSelect(old, fresh) {
    const texts = (select) => [...select.options].map((option) => option.text).join("\n");
    const wanted = plain(old.selectedOptions[0]?.text ?? "");
    const isSame = texts(old) === texts(fresh);
    if (!isSame) old.replaceChildren(...[...fresh.options].map((option) => document.importNode(option, true)));
    const place = old.dataset.touched ? [...fresh.options].findIndex((option) => plain(option.text) === wanted) : fresh.selectedIndex;
    old.selectedIndex = place < 0 ? fresh.selectedIndex : place;
  }

  const isSameKind = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id ?? "") === (b.id ?? "");
  function morphChildren(old, fresh) {
    let at = old.firstChild;
    for (const child of fresh.childNodes) {
      let same = at;
      if (child.id) while (same && same.id !== child.id) same = same.nextSibling;
      if (same && isSameKind(same, child)) {
        while (at !== same) { const next = at.nextSibling; at.remove(); at = next; }
        at = at.nextSibling;
        if (same.nodeType === Node.ELEMENT_NODE) morph(same, child);
        else if (same.data !== child.data) same.data = child.data;
      } else {
        old.insertBefore(document.importNode(child, true), at);
      }
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function show(answer) {
    const fresh = new DOMParser().parseFromString(answer.page, "text/html");
    if (fresh.body.dataset.kind !== body.dataset.kind) { location.reload(); return; }
    document.title = fresh.title;
    // Heights may change above what is being read: that stays where it is.
    const anchor = [...document.querySelectorAll("main section")].find((node) => node.getBoundingClientRect().bottom > 60);
    const before = anchor?.getBoundingClientRect().top;
    for (const selector of [".masthead", ".contents", ".live-bar", "main"]) {
      const [old, other] = [document.querySelector(selector), fresh.querySelector(selector)];
      if (old && other) morph(old, other);
    }
    langsearch.live = { ...langsearch.live, ...answer.live };
    langsearch.update?.(answer.data);
    wire();
    const moved = anchor?.isConnected && scrollY > 0 ? anchor.getBoundingClientRect().top - before : 0;
    if (Math.abs(moved) > 1) scrollBy({ top: moved, behavior: "instant" });
    ({ version } = answer);
    updated = performance.now();
    wait = answer.wait * SECOND;
  }

  async function get(path) {
    const answer = await fetch(`${url}${path}${location.search}`, { headers: HEADERS, cache: "no-store" });
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.json();
  }

  async function look() {
    try {
      const { version: now } = await get("version");
      const age = performance.now() - updated;
      if (now === version) say("up to date");
      else if (age >= wait) { show(await get("update")); say(wait ? `up to date; so many trials are redrawn every ${Math.ceil(wait / SECOND)} s` : "up to date"); }
      else say(`there is news; so many trials are redrawn every ${Math.ceil(wait / SECOND)} s`);
      body.classList.remove("lost");
    } catch {
      body.classList.add("lost");
      say("The dashboard does not answer. It is asked again every second.");
    }
  }

  // Asks first; the answer to a request is shown as text.
  function ask(question, detail, yes, request) {
    const close = () => dialog.close();
    const dialog = make("dialog", { class: "ask", "aria-label": question, onclose: () => dialog.remove() },
      make("h2", { text: question }), make("p", { text: detail }),
      make("div", { class: "controls" },
        make("button", { type: "button", class: "stop", text: yes, onclick: () => { close(); send(request); } }),
        make("button", { type: "button", text: "Go on", autofocus: "", onclick: close })));
    body.append(dialog);
    dialog.showModal();
  }

  async function send(request) {
    let text;
    try {
      const answer = await fetch(`${url}stop`, { method: "POST", headers: { ...HEADERS, "Content-Type": "application/json" }, body: JSON.stringify(request) });
      text = (await answer.json()).message;
    } catch {
      text = "The dashboard did not answer: whether it was stopped is not known.";
    }
    tell(text);
    look();
  }

  function tell(text) {
    document.querySelector(".toast")?.remove();
    const node = make("p", { class: "toast", role: "alert", text });
    body.append(node);
    setTimeout(() => node.remove(), 8 * SECOND);
  }

  langsearch.live = {
    ...JSON.parse(body.dataset.facts ?? "{}"),
    // For a row or a card of a trial that runs; none where no run holds the experiment.
    stopButton(name) {
      const { running, stopping } = langsearch.live;
      if (!running?.includes(name)) return null;
      const isAsked = stopping.includes(name);
      const onclick = () => ask(`Stop trial ${name}?`, "It ends at the epoch that it has reached, and counts as stopped early. It cannot be resumed.", "Stop it", { trial: name });
      return make("button", { type: "button", class: "stop small", text: isAsked ? "Stopping …" : "Stop", "aria-label": `Stop trial ${name}`, disabled: isAsked ? "" : null, onclick });
    },
  };

  function wire() {
    listen("stop-search", "click", () => ask("Stop the whole search?", "The trials that run write a checkpoint and stop. To go on from there: langsearch run with --resume.", "Stop the search", { trial: null }));
  }

  document.addEventListener("change", (event) => { if (event.target.tagName === "SELECT") event.target.dataset.touched = "1"; });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  (async () => {
    wire();
    for (;;) {
      await new Promise((resolve) => { setTimeout(resolve, document.hidden ? 5 * SECOND : SECOND); });
      await look();
    }
  })();
})();
