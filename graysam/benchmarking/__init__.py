"""The benchmark: cases, contenders in processes of their own, times taken in turns, tables and charts."""
