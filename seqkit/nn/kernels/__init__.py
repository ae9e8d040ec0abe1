"""What runs over time: the packed layout, the reference scan, and hand-derived backpropagation for the built-in cells.

Kernels take tensors, a layout and flags; they never see a module of a network. Shapes in names and comments:

    T steps, B sequences, b or b_t those alive at step t, N = sum of b_t packed rows
    I input features, H hidden units, G = gates * H columns of all gates, K labels of a chain, S source positions
    (N, I)  packed rows, see `packing.py`        (T, B, I)  the padded layout
    (B, H)  a state before or after all steps    (b, H)     a state at one step
    (B + N, H)  a history: the state before the first step, then the state after every step
"""
