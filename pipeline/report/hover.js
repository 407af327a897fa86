// The legend of a chart shows the numbers of the step under the pointer, and of the last step otherwise.
const shown = (v, form) => {
  if (v === null) return "–";
  if (form === "share") { const p = 100 * v, a = Math.abs(p); return p.toFixed(a >= 10 || !a ? 0 : a >= 1 ? 1 : 2) + "%"; }
  const a = Math.abs(v);
  const text = a >= 1000 ? Math.round(v).toLocaleString("en") : a >= 100 || Number.isInteger(v) ? v.toFixed(0)
    : a >= 10 ? v.toFixed(1) : a >= 0.001 ? v.toFixed(3) : v.toExponential(1);
  return form === "seconds" ? text + " s" : text;
};
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { x, y, form } = JSON.parse(svg.dataset.chart), left = +svg.dataset.left, inner = +svg.dataset.inner;
  const card = svg.closest("figure"), figures = card.querySelectorAll(".legend b"), at = card.querySelector(".at");
  const last = [...figures].map(b => b.textContent), pointer = svg.querySelector(".pointer");
  const span = x[x.length - 1] - x[0] || 1;
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width * svg.viewBox.baseVal.width - left) / inner;
    const wanted = x[0] + place * span;
    let i = 0;
    for (let k = 1; k < x.length; k++) if (Math.abs(x[k] - wanted) < Math.abs(x[i] - wanted)) i = k;
    figures.forEach((b, k) => {
      let j = i;  // what is measured now and then shows its last value
      while (j > 0 && y[k][j] === null) j--;
      b.textContent = shown(y[k][j], form);
    });
    at.textContent = "step " + x[i];
    const along = x.length === 1 ? 0.5 : (x[i] - x[0]) / span;
    pointer.setAttribute("transform", `translate(${left + inner * along})`);
    pointer.style.opacity = 1;
  });
  svg.addEventListener("pointerleave", () => {
    figures.forEach((b, k) => { b.textContent = last[k]; });
    at.textContent = "";
    pointer.style.opacity = 0;
  });
}
