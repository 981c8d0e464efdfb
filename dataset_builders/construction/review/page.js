// Keyboard of the review page: a key presses the button that shows it, and never while a text is being typed.
() => {
  const buttons = {
    a: "accept", f: "fix", r: "reject", n: "null", u: "undo", p: "progress",
    1: "reason-1", 2: "reason-2", 3: "reason-3", 4: "reason-4", 5: "reason-5", 6: "reason-6",
  };
  const seen = (id) => {
    const element = document.getElementById(id);
    return element && element.offsetParent !== null && !element.disabled ? element : null;
  };
  const typing = (element) =>
    element.isContentEditable ||
    element.tagName === "TEXTAREA" ||
    element.tagName === "SELECT" ||
    (element.tagName === "INPUT" && !["radio", "checkbox", "button"].includes(element.type));
  const press = (event, ...ids) => {
    const button = ids.map(seen).find(Boolean);
    if (button) {
      event.preventDefault();
      button.click();
    }
  };

  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.isComposing || event.altKey) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return press(event, "save-fix", "save-reason");
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") return press(event, "cancel-fix", "cancel-reason");
    if (typing(event.target)) return;
    const key = event.key.toLowerCase();
    if (key === "t") {
      const field = document.querySelector("#reason-text textarea");
      if (field && field.offsetParent !== null) {
        event.preventDefault();
        field.focus();
      }
    } else if (key === "v") {
      const video = document.querySelector("#media video");
      if (video) video.paused ? video.play() : video.pause();
    } else if (Object.hasOwn(buttons, key)) {
      press(event, buttons[key]);
    }
  });
}
