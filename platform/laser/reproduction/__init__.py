"""The paper's tables and figures: their cells as configurations, our numbers beside the paper's, in one report."""
