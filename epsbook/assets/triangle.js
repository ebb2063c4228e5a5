// Every answer for three classes, and a point p of them that one can move.
const N = 300; // p is a multiple of 1/N, so that ties are exact
const SIDE = 320, H = SIDE * Math.sqrt(3) / 2;
const V = [[200, 36], [40, 36 + H], [360, 36 + H]], COLOR = ["#0173b2", "#de8f05", "#029e73"], SUB = "₀₁₂";
const K = [0, 1, 2], dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);
const corner = t => K.map(k => +(k === t)), center = [1 / 3, 1 / 3, 1 / 3];
const at = q => [0, 1].map(j => dot(q, V.map(v => v[j])));
const xy = q => at(q).map(c => +c.toFixed(2)).join(" ");
const list = q => q.map(c => +c.toFixed(3)).join(", ");
const arrow = (a, b, ra, rb) => { // from a circle of radius ra to one of radius rb
  const d = [b[0] - a[0], b[1] - a[1]], len = Math.hypot(...d), [x, y] = d.map(c => c / len);
  if (len < ra + rb + 3) return "";
  const s = Math.min(8, (len - ra - rb) * .7), go = (r, w) => [b[0] - r * x - w * y, b[1] - r * y + w * x].map(c => +c.toFixed(2)).join(" ");
  return `M${go(len - ra, 0)}L${go(rb, 0)}M${go(rb + s, s * .55)}L${go(rb, 0)}L${go(rb + s, -s * .55)}`;
};
// `picture` gets the tools and returns the function that draws for a given p.
const triangle = (name, start, picture) => figure(name, tools => {
  const { one, all, redraw } = tools;
  const svg = one("svg"), handle = one(".eps-p");
  let p = start.map(n => n / N);
  const place = v => { // nearest point of the simplex, then of the grid
    let sum = 0, shift = 0;
    [...v].sort((a, b) => b - a).forEach((x, i) => { sum += x; if (x * (i + 1) > sum - 1) shift = (sum - 1) / (i + 1); });
    const q = v.map(x => Math.max(x - shift, 0) * N), n = q.map(x => Math.floor(x + 1e-9));
    [...K].sort((a, b) => q[b] - n[b] - q[a] + n[a]).slice(0, N - n[0] - n[1] - n[2]).forEach(k => n[k]++);
    p = n.map(x => x / N);
    redraw();
  };
  const pointer = e => {
    const c = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const a = (36 + H - c.y) / H, b = (c.x - 40 - a * SIDE / 2) / SIDE;
    return [a, 1 - a - b, b];
  };
  let grip;
  handle.addEventListener("pointerdown", e => {
    if (e.button || !e.isPrimary) return;
    const q = pointer(e);
    grip = p.map((x, k) => x - q[k]);
    handle.setPointerCapture(e.pointerId);
  });
  handle.addEventListener("pointermove", e => { if (handle.hasPointerCapture(e.pointerId)) place(pointer(e).map((x, k) => x + grip[k])); });
  all("polygon").forEach(e => e.addEventListener("click", e => place(pointer(e))));
  // Chromium does not heed touch-action inside an SVG
  handle.addEventListener("touchmove", e => e.preventDefault(), { passive: false });
  handle.addEventListener("keydown", e => {
    const move = { ArrowUp: [4, -2, -2], ArrowDown: [-4, 2, 2], ArrowRight: [0, -3, 3], ArrowLeft: [0, 3, -3] }[e.key];
    if (!move || e.ctrlKey || e.altKey || e.metaKey) return;
    e.preventDefault();
    place(p.map((x, k) => x + move[k] * (e.shiftKey ? 5 : 1) / N));
  });
  const draw = picture({ ...tools, handle, place });
  return () => {
    draw(p);
    [handle, one(".eps-dot")].forEach((e, i) => set(e, { cx: +at(p)[0].toFixed(2), cy: +at(p)[1].toFixed(2) }));
  };
});
