import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "/view/",
  build: {
    target: "es2022",
    // The policy of the page allows no inline scripts, and none are needed.
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    // The bundle holds libraries of others, whose licences ask to be there with them.
    license: { fileName: "licences.md" },
  },
  test: { include: ["tests/*.test.ts"] },
});
