// A file that is dropped, or chosen, goes to the node; what comes back is the answer.

const drop = document.querySelector("[data-drop]");
const result = document.querySelector("[data-result]");

async function send(file) {
  result.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: drop.dataset.busy }));
  drop.classList.add("busy");
  try {
    const headers = { "X-CSRF-Token": drop.dataset.csrf, "Content-Type": "application/octet-stream", Accept: "text/plain" };
    const answer = await fetch(drop.dataset.action, { method: "POST", body: file, headers });
    const text = await answer.text();
    if (answer.ok) result.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
    else result.firstChild.textContent = text;
  } catch {
    result.firstChild.textContent = drop.dataset.failed;
  }
  drop.classList.remove("busy");
}

drop.querySelector("input").addEventListener("change", (event) => { if (event.target.files[0]) send(event.target.files[0]); event.target.value = ""; });
for (const name of ["dragover", "dragleave", "drop"])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
