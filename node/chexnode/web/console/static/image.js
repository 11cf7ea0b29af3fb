// The picture of one image: window by dragging, zoom by the wheel, the overlay's strength, and regions that light up.
// While the pointer moves the browser only brightens what it has; when it rests the node draws the true window.

const stage = document.querySelector("[data-stage]");

if (stage) {
  const pictures = [...stage.querySelectorAll("img")];
  const canvases = [...stage.querySelectorAll(".canvas")];
  const overlay = stage.querySelector(".overlay");
  const output = document.querySelector("[data-window]");
  const first = { center: +stage.dataset.center, width: +stage.dataset.width };
  let window_ = { ...first }, drawn = { ...first }, view = { scale: 1, x: 0, y: 0 }, drag = null, timer = 0;

  const place = () => canvases.forEach((c) => { c.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`; });
  const say = () => { output.textContent = `C ${Math.round(window_.center)} · W ${Math.round(window_.width)}`; };

  function preview() {
    const contrast = drawn.width / window_.width;
    const brightness = 1 + (drawn.center - window_.center) / drawn.width;
    pictures.forEach((p) => { p.style.filter = `contrast(${contrast}) brightness(${Math.max(0.05, brightness)})`; });
    say();
  }

  async function draw() {
    const wanted = { ...window_ };
    const url = `${stage.dataset.picture}?window=${wanted.center.toFixed(2)},${wanted.width.toFixed(2)}`;
    const next = new Image();
    next.src = url;
    try { await next.decode(); } catch { return; }
    drawn = wanted;
    pictures.forEach((p) => { p.src = url; p.style.filter = ""; });
    stage.dataset.drawn = url;
    preview();
  }

  function zoom(factor, x, y) {
    const scale = Math.min(12, Math.max(1, view.scale * factor));
    view = { scale, x: x - (x - view.x) * (scale / view.scale), y: y - (y - view.y) * (scale / view.scale) };
    if (scale === 1) view = { scale, x: 0, y: 0 };
    place();
  }

  stage.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, start: { ...window_ }, view: { ...view }, isPan: event.shiftKey || event.button === 1 };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    stage.focus();
  });
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    if (drag.isPan) { view = { ...view, x: drag.view.x + dx, y: drag.view.y + dy }; place(); return; }
    window_ = { center: drag.start.center + (dy * first.width) / 600, width: Math.max(first.width / 500, drag.start.width * Math.exp(dx / 300)) };
    preview();
  });
  stage.addEventListener("pointerup", () => { const was = drag; drag = null; if (was && !was.isPan && (window_.center !== drawn.center || window_.width !== drawn.width)) draw(); });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== stage) return;
    event.preventDefault();
    const box = event.target.closest(".pane")?.getBoundingClientRect() ?? stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-0.03, 0], ArrowDown: [0.03, 0], ArrowLeft: [0, -0.06], ArrowRight: [0, 0.06] }[event.key];
    if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.25 : 0.8, stage.clientWidth / 2, stage.clientHeight / 2);
    else if (step) {
      window_ = { center: window_.center + step[0] * first.width, width: window_.width * (1 + step[1]) };
      preview();
      clearTimeout(timer);
      timer = setTimeout(draw, 300);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  document.querySelector("[data-opacity]").addEventListener("input", (event) => { overlay.style.opacity = event.target.value / 100; });
  overlay.style.opacity = 0.8;
  document.querySelector("[data-reset]").addEventListener("click", () => {
    window_ = { ...first }; drawn = { ...first }; view = { scale: 1, x: 0, y: 0 };
    pictures.forEach((p) => { p.src = stage.dataset.picture; p.style.filter = ""; });
    place(); say();
  });
  document.querySelector("[data-split]").addEventListener("click", (event) => {
    const bare = stage.querySelector(".bare");
    bare.hidden = !bare.hidden;
    stage.classList.toggle("split", !bare.hidden);
    event.currentTarget.setAttribute("aria-pressed", String(!bare.hidden));
  });

  const light = (number, is) => document.querySelectorAll(`[data-region="${number}"]`).forEach((one) => one.classList.toggle("lit", is));
  for (const one of document.querySelectorAll("[data-region]")) {
    for (const on of ["pointerenter", "focus"]) one.addEventListener(on, () => light(one.dataset.region, true));
    for (const off of ["pointerleave", "blur"]) one.addEventListener(off, () => light(one.dataset.region, false));
  }
  say();
}
