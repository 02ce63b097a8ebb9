"""Pages and drawings: what a run or a sweep shows of itself, as SVG, Markdown and HTML."""
