/* A text that is longer than what is taken at once does not leave the browser: sending 50 MB takes it half a minute. */
(() => {
  const accepted = new WeakMap();

  const refused = (area, length) => {
    const words = document.getElementById("too-long");
    words.hidden = length <= Number(words.dataset.limit);
    return !words.hidden;
  };
  const typed = (event) => (event.target.matches && event.target.matches("#tokenizer-text textarea") ? event.target : null);

  document.addEventListener("paste", (event) => {
    const area = typed(event);
    if (!area) return;
    const kept = area.value.length - (area.selectionEnd - area.selectionStart);
    if (refused(area, kept + event.clipboardData.getData("text").length)) event.preventDefault();
  }, true);
  document.addEventListener("input", (event) => { // what is dropped, too
    const area = typed(event);
    if (!area) return;
    if (refused(area, area.value.length)) {
      event.stopImmediatePropagation();
      area.value = accepted.get(area) ?? "";
    } else {
      accepted.set(area, area.value);
    }
  }, true);
  document.addEventListener("focusin", (event) => {
    const area = typed(event);
    if (area) accepted.set(area, area.value);
  });
})();

/* Tokens: what the mouse points at, or a click or an arrow key has chosen, is lit in the text and among the ids. */
(() => {
  const FIELDS = ["", "in the vocabulary", "text", "bytes", "", "", "word", ""];
  const known = new WeakMap();

  const facts = (box) => {
    const told = box.querySelector("data").value;
    if (known.get(box)?.told !== told) known.set(box, { told, facts: JSON.parse(told) }); // Gradio keeps elements that it can
    return known.get(box).facts;
  };
  const position = (element) => Array.prototype.indexOf.call(element.parentNode.children, element);
  const chunk = (box) => Number(box.dataset.chunk);
  const place = (token) => position(token.parentNode) * chunk(token.closest(".tokenized")) + position(token);
  const twins = (box, index) =>
    [".tokens", ".ids"].map((list) => box.querySelector(list).children[Math.floor(index / chunk(box))].children[index % chunk(box)]);

  const light = (box, index, name) => {
    box.querySelectorAll("." + name).forEach((token) => token.classList.remove(name));
    if (index >= 0) twins(box, index).forEach((token) => token && token.classList.add(name));
  };

  const part = (line, label, value) => {
    const cell = line.appendChild(document.createElement("span"));
    if (label) cell.appendChild(document.createElement("b")).textContent = label + " ";
    cell.appendChild(document.createTextNode(value));
  };

  const tell = (box, index) => {
    const line = box.querySelector(".token");
    line.replaceChildren();
    const [id, token, text, bytes, start, end, word, kind] = facts(box)[index];
    const number = Number(box.dataset.first) + index + 1;
    part(line, "Token", `${number.toLocaleString("en")} of ${Number(box.dataset.total).toLocaleString("en")}`);
    part(line, "id", id);
    part(line, FIELDS[1], JSON.stringify(token));
    if (text && text !== token) part(line, FIELDS[2], JSON.stringify(text));
    if (bytes) part(line, FIELDS[3], bytes);
    if (start !== null) part(line, "characters", end > start ? `${start} to ${end}` : `none, at ${start}`);
    if (word !== null) part(line, FIELDS[6], word);
    if (kind !== "text") part(line, "", { special: "special token", added: "added token", byte: "part of a character", unknown: "unknown" }[kind]);
  };

  const chosen = (box) => {
    const token = box.querySelector(".tokens .chosen");
    return token ? place(token) : -1;
  };

  const choose = (box, index) => {
    light(box, index, "chosen");
    if (index >= 0) {
      tell(box, index);
      twins(box, index).forEach((token) => token && token.scrollIntoView({ block: "nearest", inline: "nearest" }));
    }
  };

  const under = (event) => {
    const token = event.target.closest && event.target.closest(".tokens > p > i, .ids > p > i");
    return token && token.closest(".tokenized") ? token : null;
  };

  document.addEventListener("pointerover", (event) => {
    const token = under(event);
    if (!token) return;
    const box = token.closest(".tokenized");
    light(box, place(token), "lit");
    if (chosen(box) < 0) tell(box, place(token));
  });
  document.addEventListener("pointerout", (event) => {
    const token = under(event);
    if (token) light(token.closest(".tokenized"), -1, "lit");
  });
  document.addEventListener("click", (event) => {
    const token = under(event);
    if (!token) return;
    const box = token.closest(".tokenized"), index = place(token);
    choose(box, index === chosen(box) ? -1 : index);
  });
  document.addEventListener("keydown", (event) => {
    const list = event.target.closest && event.target.closest(".tokens");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!list || !step) return;
    event.preventDefault();
    const box = list.closest(".tokenized"), last = facts(box).length - 1;
    choose(box, Math.min(last, Math.max(0, chosen(box) + step)));
  });
})();
