// uPlot reads the pixel ratio once, when it is loaded. At least two pixels for each of the page's keep charts sharp on paper.
globalThis.devicePixelRatio = Math.max(2, globalThis.devicePixelRatio);
