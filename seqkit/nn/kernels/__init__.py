"""What runs over time: the packed layout, the reference scan, and hand-derived backpropagation for the built-in cells.

Kernels take tensors, a layout and flags; they never see a module of a network. Letters stand for sizes, in comments
and, where a function has a tensor in several layouts, as suffixes of its names (x_NI, x_TBI):

    T steps, B sequences, b or b_t those alive at step t, N = sum of all b_t, R = T * b_0
    I input features, P features of the projected input, H hidden units, G = gates * H, F features of any kind
    K labels of a chain (crf.py), Q queries, S source positions, A and C features of attention

    x_NI    packed rows, step after step; see packing.py     x_TBI   padded
    x_RI    the steps of the b_0 sequences that have any, padded to one length, as rows
    h_BH    a state of all sequences                         h_bH    a state at one step
    (B + N, H)  a history: the state before the first step, then the state after every step
"""
