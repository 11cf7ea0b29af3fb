// What every page does: the theme, parts that stay current by server-sent events, keys, and questions before acts.

import { morph } from "./morph.js";

const root = document.documentElement;

document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  document.querySelector('meta[name="color-scheme"]').content = root.dataset.theme;
  document.cookie = `chexnode-theme=${root.dataset.theme}; Path=/; Max-Age=31536000; SameSite=Lax`;
});

const notice = document.getElementById("notice");

export function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

for (const part of document.querySelectorAll("[data-live]")) {
  const source = new EventSource(part.dataset.live);
  source.addEventListener("part", (event) => {
    tell("");
    if (!part.contains(document.activeElement) || !document.activeElement.matches("input, select, textarea"))
      morph(part, JSON.parse(event.data));
  });
  source.addEventListener("over", () => location.reload());
  source.addEventListener("error", () => tell(document.body.dataset.lost));
  addEventListener("pagehide", () => source.close());
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    const field = document.querySelector('input[type="search"]');
    if (field) { field.focus(); event.preventDefault(); }
  } else if (event.key === "j" || event.key === "k") {
    const links = [...document.querySelectorAll("[data-row]")];
    const at = links.indexOf(document.activeElement);
    links[Math.max(0, Math.min(links.length - 1, at + (event.key === "j" ? 1 : -1)))]?.focus();
  } else if (/^[1-9]$/.test(event.key)) {
    document.querySelector(`nav a[data-key="${event.key}"]`)?.click();
  }
});

for (const field of document.querySelectorAll("[data-submit-on-change]"))
  field.addEventListener("change", () => field.form.requestSubmit());
