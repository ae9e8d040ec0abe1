// Shows the numbers of the unit that is clicked, in every map of its panel. Holds no data: they stand in the page.
(() => {
  const row = (name, values) => {
    const line = document.createElement("tr");
    const head = line.appendChild(document.createElement("th"));
    head.scope = "row";
    head.textContent = name;
    for (const value of values) line.appendChild(document.createElement("td")).textContent = value === null ? "–" : Number(value.toPrecision(2));
    return line;
  };
  const pick = (viewer, data, table, map, unit, column) => {
    const panel = data.panels[Number(table.dataset.panel)];
    const number = panel.maps[map].units[unit];
    const rows = panel.maps.filter((each) => each.units.includes(number))
      .map((each) => row(each.name, each.values[each.units.indexOf(number)]));
    const picked = table.querySelector(".picked");
    picked.replaceChildren(...rows);
    picked.hidden = false;
    for (const image of table.querySelectorAll("img")) {
      const units = panel.maps[Number(image.dataset.map)].units, place = units.indexOf(number);
      const cell = image.parentElement;
      cell.querySelector(".band")?.remove();
      if (place < 0) continue;
      const band = cell.appendChild(document.createElement("i"));
      band.className = "band";
      band.style.top = `${(place / units.length) * 100}%`;
      band.style.height = `${100 / units.length}%`;
    }
    const says = table.parentElement.nextElementSibling;
    says.textContent = `Unit ${number}, at “${data.words[column] ?? ""}”: ` +
      panel.maps.filter((each) => each.units.includes(number))
        .map((each) => `${each.name} ${each.values[each.units.indexOf(number)][column] ?? "–"}`).join(", ");
  };
  for (const viewer of document.querySelectorAll("[data-gates]:not([data-ready])")) {
    viewer.dataset.ready = "";
    const data = JSON.parse(viewer.querySelector('script[type="application/json"]').textContent);
    viewer.addEventListener("click", (event) => {
      const image = event.target.closest("img[data-map]");
      if (!image) return;
      const box = image.getBoundingClientRect(), table = image.closest("table");
      const units = data.panels[Number(table.dataset.panel)].maps[Number(image.dataset.map)].units.length;
      const place = (share, count) => Math.min(Math.max(Math.floor(share * count), 0), count - 1);
      pick(viewer, data, table, Number(image.dataset.map), place((event.clientY - box.top) / box.height, units),
        place((event.clientX - box.left) / box.width, data.words.length));
    });
  }
})();
