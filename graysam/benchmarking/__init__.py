"""The benchmark: cases, competitors in processes of their own, and the one timing harness."""
