/* Cards: what a citation or a reference leads to, shown beside it. The build puts the
   texts at the end of the page, as <template data-card="address of the link">. */
(() => {
  const SHOW = 150, HIDE = 250; // ms that the pointer must rest; time to reach the card
  const EDGE = 12, GAP = 6; // px to the window's edge; px to the link

  const texts = new Map();
  for (const one of document.querySelectorAll("template[data-card]")) {
    texts.set(one.dataset.card, one.content);
  }
  if (!texts.size) return;

  const card = document.createElement("div");
  card.id = "reference-card";
  card.className = "reference-card mathjax_ignore";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  document.querySelector("article").append(card);

  let link = null; // whose card is open
  let tapped = null; // touched, and its card was not open
  let timer = 0;

  const later = (act, delay) => {
    clearTimeout(timer);
    timer = setTimeout(act, delay);
  };

  /** The link with a card at or around an element; a citation's names belong to it. */
  const linkAt = (element) => {
    const around = element.closest("a, .bibtex-citation");
    const found = around?.querySelector("a") ?? around;
    return texts.has(found?.getAttribute("href")) ? found : null;
  };

  const hide = () => {
    clearTimeout(timer);
    link?.removeAttribute("aria-describedby");
    link = null;
    card.hidden = true;
  };

  /** Under the link, or over it where the room is; inside the window. */
  const place = (x) => {
    const { top, bottom } = link.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const { offsetWidth: width, offsetHeight: height } = card;
    const under = bottom + GAP + height + EDGE <= clientHeight;
    const left = Math.max(EDGE, Math.min(x, clientWidth - width - EDGE));
    card.style.left = `${left + scrollX}px`;
    card.style.top = `${(under ? bottom + GAP : top - GAP - height) + scrollY}px`;
  };

  const typeset = async () => {
    const { startup } = window.MathJax ?? {};
    if (!startup || !card.querySelector(".math")) return;
    MathJax.typesetClear([card]);
    startup.promise = startup.promise.then(() => MathJax.typesetPromise([card]));
    await startup.promise;
    for (const one of card.querySelectorAll("[id]")) one.removeAttribute("id");
  };

  const show = async (next, x = next.getBoundingClientRect().left) => {
    clearTimeout(timer);
    if (next === link) return;
    hide();
    link = next;
    link.removeAttribute("title"); // the card says it
    link.setAttribute("aria-describedby", card.id);
    card.replaceChildren(texts.get(link.getAttribute("href")).cloneNode(true));
    card.style.visibility = "hidden"; // has a size, which place and MathJax need
    card.hidden = false;
    await typeset();
    if (next !== link) return;
    place(x);
    card.style.visibility = "";
  };

  document.addEventListener("pointerover", ({ target, pointerType, clientX }) => {
    if (pointerType === "touch") return;
    const over = linkAt(target);
    if (over && over !== link) later(() => show(over, clientX - 2 * EDGE), SHOW);
    else if (over || card.contains(target)) clearTimeout(timer);
    else later(() => link?.matches(":focus-visible") || hide(), HIDE);
  });

  document.addEventListener("focusin", ({ target }) => {
    if (target.matches(":focus-visible") && linkAt(target)) show(linkAt(target));
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", ({ key }) => {
    tapped = null;
    if (key === "Escape") hide();
  });

  // A first tap shows the card, a second one follows the link.
  document.addEventListener("pointerdown", ({ target, pointerType }) => {
    const down = linkAt(target);
    tapped = pointerType === "touch" && down !== link ? down : null;
    if (!down && !card.contains(target)) hide();
  });
  document.addEventListener("click", (event) => {
    if (!linkAt(event.target)) return;
    if (!tapped) return hide();
    event.preventDefault();
    show(tapped);
    tapped = null;
  });

  addEventListener("resize", hide);
})();
