// A picture that answers to its sliders and says in words what it shows. It holds its
// first drawing: after a change take it over from a browser, or a test fails.
const set = (e, o) => { for (const k in o) e.setAttribute(k, o[k]); };
const slow = top => v => { // a slider of 80 steps from 0 to top, as a logarithm
  const x = (top + 1) ** (v / 80) - 1;
  return +x.toPrecision(x < 10 ? 2 : 3);
};
// `picture` gets the tools and returns the function that draws.
const figure = (name, picture) => document.querySelectorAll(`.${name}:not(.eps-live)`).forEach(root => {
  const one = c => root.querySelector(c), all = c => [...root.querySelectorAll(c)], redraw = () => draw();
  const read = (e, number, text = x => x.toLocaleString("en")) => { // value of a slider, which says it
    const label = e.parentNode, x = number(e.value);
    label.querySelector("output").textContent = text(x);
    set(e, { "aria-valuetext": `${label.querySelector("i").textContent} = ${text(x)}` });
    return x;
  };
  all("input").forEach(e => e.addEventListener("input", redraw));
  const draw = picture({ root, one, all, read, redraw });
  root.classList.add("eps-live");
  redraw();
});
