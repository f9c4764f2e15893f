"""From torch to exported models: graphs, int8, quantization methods, the comparison with torch."""
