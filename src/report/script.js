"use strict";
for (const time of document.querySelectorAll("time[data-seconds]")) {
  time.textContent = new Date(1000 * Number(time.dataset.seconds)).toLocaleString();
}
for (const gallery of document.querySelectorAll(".gallery")) {
  const find = (what) => gallery.querySelector(what);
  const [left, right, shot] = [find(".left"), find(".right"), find(".shot")];
  const [frame, slider] = [find(".frame"), find("input")];
  const show = (image, label, row) => {
    const cell = find(`[data-row="${row.value}"][data-shot="${shot.value}"] img`);
    image.hidden = !cell;
    if (cell) {
      image.src = cell.src;
      image.alt = cell.alt;
      frame.style.aspectRatio = `${cell.getAttribute("width")} / ${cell.getAttribute("height")}`;
    }
    label.textContent = row.selectedOptions[0].textContent;
  };
  const update = () => {
    show(find(".over"), find(".name-left"), left);
    show(find(".under"), find(".name-right"), right);
    frame.style.setProperty("--cut", `${slider.value}%`);
    for (const button of gallery.querySelectorAll("button")) {
      const same = button.dataset.shot === shot.value && [left.value, right.value].includes(button.dataset.row);
      button.setAttribute("aria-pressed", String(same));
    }
  };
  for (const control of [left, right, shot, slider]) control.addEventListener("input", update);
  // A picture of the grid becomes the right one; with the shift key held, the left one.
  for (const button of gallery.querySelectorAll("button")) {
    button.addEventListener("click", (event) => {
      (event.shiftKey ? left : right).value = button.dataset.row;
      shot.value = button.dataset.shot;
      update();
      frame.scrollIntoView({ block: "nearest" });
    });
  }
  update();
}
