// The page of `seqkit serve`. Every text from the server becomes text, never markup, but for the fragments of /explain,
// which the server has escaped; the page's policy lets no script in them run.
(() => {
  "use strict";
  const PAUSE = 150; // milliseconds without a key before a text is sent
  const SHOWN = 10; // classes with a bar
  const at = (id) => document.getElementById(id);
  const token = new URLSearchParams(location.search).get("token");
  let runs = [], run = null, changed = {}, timer = 0, sent = 0, waiting = null, explained = 0;

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const call = async (path, body, signal) => {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const options = body ? { method: "POST", body: JSON.stringify(body), signal } : { signal };
    if (body) headers["content-type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return found;
  };

  // --- the answer -----------------------------------------------------------------------------------------------

  const percent = (share) => `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)}%`;
  const number = (value) => (value === null ? "–" : Number(value.toPrecision(4)).toLocaleString("en").replace("-", "−"));

  const headline = (text) => make("p", { className: "headline", dir: "auto" }, text);

  const bars = (shares) => {
    const rows = Object.entries(shares).sort((one, other) => other[1] - one[1]);
    const list = make("dl", { className: "bars" });
    for (const [name, share] of rows.slice(0, SHOWN)) {
      const fill = make("i");
      fill.style.width = `${100 * share}%`;
      list.append(make("div", {}, make("dt", { dir: "auto", title: name }, name), make("dd", {},
        make("span", { className: "bar" }, fill), make("span", { className: "share" }, percent(share)))));
    }
    const left = rows.slice(SHOWN).reduce((sum, row) => sum + row[1], 0);
    if (rows.length > SHOWN) list.append(make("div", {}, make("dt", {}, `${rows.length - SHOWN} more`), make("dd", {}, make("span", { className: "bar" }), make("span", { className: "share" }, percent(left)))));
    return list;
  };

  const marked = (text, slots) => {
    const letters = Array.from(text), line = make("p", { className: "tagged", dir: "auto" });
    let place = 0;
    for (const slot of slots) {
      line.append(letters.slice(place, slot.start).join(""));
      line.append(make("mark", {}, letters.slice(slot.start, slot.end).join(""), "\u00a0", make("small", {}, slot.type)));
      place = slot.end;
    }
    line.append(letters.slice(place).join(""));
    return line;
  };

  // ￭ in a token says that no space stands there.
  const tokens = (names, logProbs) => {
    const list = make("ol", { className: "tokens", dir: "auto" });
    names.forEach((name, place) => {
      const share = Math.exp(logProbs[place] ?? 0), item = make("li", { title: `${percent(share)} likely` }, name.replaceAll("￭", ""));
      item.dataset.sure = share > 0.8 ? "high" : share > 0.4 ? "middle" : "low";
      list.append(item);
    });
    const key = make("p", { className: "note" }, "Each token, with a line under those that the model was less sure of: ");
    key.append(make("span", { className: "key" }, "below 80%"), ", ", make("span", { className: "key low" }, "below 40%"), ".");
    return names.length ? [list, key] : [];
  };

  const numbers = (values) => {
    const list = make("dl", { className: "numbers" });
    for (const [name, value] of Object.entries(values)) {
      list.append(make("div", {}, make("dt", {}, name), make("dd", {}, number(value))));
    }
    return list;
  };

  const show = (text, found) => {
    if ("probabilities" in found) return [headline(found.label ?? "no label"), bars(found.probabilities)];
    if ("slots" in found) {
      return [...(found.intent === null ? [] : [headline(found.intent)]), marked(text, found.slots),
        ...(found.slots.length ? [] : [make("p", { className: "note" }, "No slots in this text.")])];
    }
    if ("translation" in found || "log_probs" in found) {
      const written = found.translation ?? found.text;
      const parts = [headline(written || "(empty)"), ...tokens(found.tokens, found.log_probs)];
      if (!found.finished) parts.push(make("p", { className: "note" }, "Cut at the maximum length."));
      if (found.n_best) {
        parts.push(make("ol", { className: "others", start: 2 }, ...found.n_best.slice(1).map((one) => make("li", { dir: "auto" }, one.translation))));
      }
      return parts;
    }
    if ("perplexity" in found) {
      return [numbers({ perplexity: found.perplexity, "bits per character": found.bits_per_character,
        "log probability": found.log_prob, tokens: found.tokens })];
    }
    return [make("pre", {}, JSON.stringify(found, null, 2))];
  };

  const fail = (error) => {
    at("answer").replaceChildren(make("p", { className: "error", role: "alert" }, error.message));
    at("status").textContent = "";
    at("more").hidden = true;
  };

  const predict = async () => {
    const text = at("text").value, turn = ++sent;
    waiting?.abort();
    waiting = null;
    if (!text.trim() && !changed.sample) {
      at("answer").replaceChildren();
      at("status").textContent = "";
      at("more").hidden = true;
      return;
    }
    waiting = new AbortController();
    const began = performance.now();
    try {
      const found = await call("/predict", { run: run.name, text, options: changed }, waiting.signal);
      if (turn !== sent) return; // a later text has been sent
      at("answer").replaceChildren(...show(text, found.predictions[0]));
      at("status").textContent = `Answered in ${Math.round(performance.now() - began)} ms.`;
      at("more").hidden = !text.trim();
    } catch (error) {
      if (turn === sent && error.name !== "AbortError") fail(error);
    }
  };

  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(predict, PAUSE);
    if (at("explanation").childElementCount) at("explanation").classList.add("old");
  };

  // --- why ------------------------------------------------------------------------------------------------------

  const explain = async (what) => {
    const text = at("text").value, turn = ++explained, box = at("explanation");
    const buttons = document.querySelectorAll("#more button");
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.what === what));
    box.classList.remove("old");
    box.replaceChildren(make("p", { className: "note" }, "Computing…"));
    try {
      const found = await call("/explain", { run: run.name, text, what, form: "html" });
      if (turn !== explained) return;
      box.innerHTML = found.html;
      box.prepend(make("h2", {}, what === "words" ? "Why this answer" : "What the gates did"));
      at("status").textContent = "Explained below.";
      if (box.querySelector("[data-gates]")) document.head.append(make("script", { src: "/static/gates.js" }));
      if (text !== at("text").value) box.classList.add("old");
    } catch (error) {
      if (turn === explained) box.replaceChildren(make("p", { className: "error", role: "alert" }, error.message));
    }
  };

  const forget = () => {
    explained += 1;
    at("explanation").replaceChildren();
    at("explanation").classList.remove("old");
    for (const button of document.querySelectorAll("#more button")) button.removeAttribute("aria-pressed");
  };

  // --- runs, settings, examples ---------------------------------------------------------------------------------

  const setting = (name, option) => {
    const field = make(option.choices ? "select" : "input", { id: `option-${name}` });
    if (option.choices) field.append(...option.choices.map((choice) => make("option", { value: choice }, choice)));
    else field.type = { boolean: "checkbox", integer: "number", number: "number" }[option.type] ?? "text";
    if (option.type === "number") field.step = "any";
    if (option.type === "boolean") field.checked = option.default;
    else field.value = option.default ?? "";
    field.addEventListener(option.type === "boolean" || option.choices ? "change" : "input", () => {
      const raw = option.type === "boolean" ? field.checked : field.value;
      const value = typeof raw === "string" && field.type === "number" ? (raw === "" ? null : Number(raw)) : raw;
      if (value === option.default) delete changed[name];
      else changed[name] = value;
      soon();
    });
    const label = make("label", { htmlFor: field.id, title: option.description }, name);
    return make("div", { className: option.type === "boolean" ? "setting switch" : "setting" }, label, field);
  };

  const example = (one) => {
    const button = make("button", { type: "button", dir: "auto" }, one.text);
    if (one.gold !== null) {
      const gold = make("bdi", {}, one.gold);  // of whatever script, in a line of ours from left to right
      const says = one.gold === one.prediction ? [gold, " ✓"] : ["expected: ", gold, "; answered: ", make("bdi", {}, one.prediction)];
      button.append(make("small", { dir: "ltr" }, ...says));
    }
    button.addEventListener("click", () => {
      at("text").value = one.text;
      scrollTo({ top: 0, behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
      forget();
      predict();
    });
    return make("li", {}, button);
  };

  const choose = (chosen) => {
    run = chosen;
    changed = {};
    forget();
    at("title").textContent = run.name;
    document.title = `${run.name} – seqkit serve`;
    at("about").textContent = `${run.task.replaceAll("_", " ")}, ${run.parameters.toLocaleString("en")} parameters, on ${run.device}`;
    for (const button of at("runs").children) button.setAttribute("aria-pressed", String(button.textContent === run.name));
    const options = Object.entries(run.options);
    at("options").replaceChildren(...options.map((row) => setting(...row)));
    at("settings").hidden = !options.length;
    at("settings").open = false;
    at("examples").querySelector("ul").replaceChildren(...run.examples.map(example));
    at("examples").hidden = !run.examples.length;
    predict();
  };

  const start = async () => {
    try {
      ({ runs } = await call("/runs"));
    } catch (error) {
      at("about").textContent = "";
      fail(error);
      return;
    }
    if (token) at("docs").href = `/docs?token=${encodeURIComponent(token)}`;
    for (const one of runs) {
      const button = make("button", { type: "button" }, one.name);
      button.addEventListener("click", () => choose(one));
      at("runs").append(button);
    }
    at("runs").hidden = runs.length < 2;
    at("text").addEventListener("input", soon);
    for (const button of document.querySelectorAll("#more button")) {
      button.addEventListener("click", () => explain(button.dataset.what));
    }
    choose(runs[0]);
  };

  start();
})();
