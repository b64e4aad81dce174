"use strict";
(function () {
  function key(body, column) {
    var cell = body.rows ? body.rows[0].cells[column] : body.cells[column];
    var number = cell.getAttribute("data-sort");
    return number === null || number === "" ? cell.textContent.trim() : parseFloat(number);
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  function missing(value) { return value === Infinity; }
  function sort(table, header) {
    var column = header.cellIndex;
    var down = header.getAttribute("aria-sort") === "ascending";
    var grouped = table.classList.contains("grouped");
    var parts = Array.from(grouped ? table.tBodies : table.tBodies[0].rows);
    var keyed = parts.map(function (part) { return [key(part, column), part]; });
    keyed.sort(function (x, y) {
      if (missing(x[0]) || missing(y[0])) { return missing(x[0]) - missing(y[0]); }
      return down ? compare(y[0], x[0]) : compare(x[0], y[0]);
    });
    var home = grouped ? table : table.tBodies[0];
    keyed.forEach(function (pair) { home.appendChild(pair[1]); });
    Array.from(header.parentNode.cells).forEach(function (cell) {
      cell.removeAttribute("aria-sort");
    });
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  }
  document.querySelectorAll("table.sortable th").forEach(function (header) {
    var button = document.createElement("button");
    button.type = "button";
    while (header.firstChild) { button.appendChild(header.firstChild); }
    header.appendChild(button);
    button.addEventListener("click", function () { sort(header.closest("table"), header); });
  });
  document.querySelectorAll("button.open").forEach(function (button) {
    button.addEventListener("click", function () {
      var detail = document.getElementById(button.getAttribute("aria-controls"));
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
    });
  });
  var filter = document.getElementById("user-filter");
  if (filter) {
    filter.addEventListener("input", function () {
      var wanted = filter.value.trim().toLowerCase();
      document.querySelectorAll("#users-table tbody").forEach(function (body) {
        var name = body.rows[0].cells[0].textContent.toLowerCase();
        body.hidden = wanted !== "" && name.indexOf(wanted) < 0;
      });
    });
  }
}());
