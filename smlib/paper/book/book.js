// "Reproduce this figure": the command of a badge is copied, or selected where the browser does not let a page copy.

function button(block) {
  const command = block.textContent.trim();
  const made = document.createElement("button"), said = document.createElement("span");
  made.type = "button";
  made.className = "reproduce";
  made.textContent = "Reproduce this figure";
  made.title = `copy the command: ${command}`;
  said.className = "reproduce-said";
  said.setAttribute("role", "status");
  made.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      said.textContent = "The command is copied: run it in a checkout.";
    } catch {
      getSelection().selectAllChildren(block);
      said.textContent = "The command is selected: copy it, and run it in a checkout.";
    }
  });
  block.closest("div[class*='highlight-']").before(made, said);
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".admonition.figure-source pre").forEach(button));
