import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "/view/",
  build: {
    target: "es2022",
    // The policy of the page allows no inline scripts, and none are needed.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
  },
  test: { include: ["tests/*.test.ts"] },
});
