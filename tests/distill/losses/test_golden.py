"""Each loss against an independent NumPy formula, written as the paper has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.losses import LOSSES
from edgekd.signals.sampled import sample

RANDOM = np.random.default_rng(7)
B, P, C, W = 3, 4, 5, 6
S, T = RANDOM.normal(size=(B, P, C)) * 3, RANDOM.normal(size=(B, P, C)) * 3
LENGTHS = [4, 2, 1]
MASK = np.arange(P)[None] < np.array(LENGTHS)[:, None]
LABELS = RANDOM.integers(0, C, (B, P))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def over_positions(values, lengths=LENGTHS):
    """Mean over each sample's real positions, written as loops."""
    return np.array([values[i, :n].mean() for i, n in enumerate(lengths)])


def run(name, *arrays, mask=MASK, **settings):
    tensors = [
        [torch.from_numpy(a) for a in array] if isinstance(array, list) else torch.from_numpy(array)
        for array in arrays
    ]
    function = LOSSES[name].make(settings)
    return function(*tensors, mask=None if mask is None else torch.from_numpy(mask)).numpy()


def close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9)


def golden_kl(s, t, temperature):
    return temperature**2 * kl(softmax(t / temperature), softmax(s / temperature))


def test_softened_kl():
    for temperature in (1.0, 3.0):
        close(
            run("softened_kl", S, T, temperature=temperature),
            over_positions(golden_kl(S, T, temperature)),
        )
    close(run("softened_kl", S[:, 0], T[:, 0], mask=None), golden_kl(S[:, 0], T[:, 0], 2.0))


def test_logit_mse():
    close(run("logit_mse", S, T), over_positions(((S - T) ** 2).sum(-1)))


def test_cross_entropy():
    values = -np.log(np.take_along_axis(softmax(S), LABELS[..., None], -1)[..., 0])
    close(run("cross_entropy", S, LABELS), over_positions(values))
    unlabelled = LABELS.copy()
    unlabelled[0, 1:] = -100
    unlabelled[1] = -100
    close(run("cross_entropy", S, unlabelled), [values[0, 0], 0, values[2, 0]])


def test_standardised_kl():
    def z(x):
        return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)

    close(run("standardised_kl", S, T), over_positions(golden_kl(z(S), z(T), 2.0)))


def golden_decoupled(s, t, y, temperature, alpha, beta):
    p, q = softmax(t / temperature), softmax(s / temperature)
    out = np.empty(y.shape)
    for index in np.ndindex(*y.shape):
        target = y[index]
        others = [c for c in range(C) if c != target]
        pt, qt = p[index][target], q[index][target]
        tckd = pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
        nckd = kl(p[index][others] / (1 - pt), q[index][others] / (1 - qt))
        out[index] = temperature**2 * (alpha * tckd + beta * nckd)
    return out


def test_decoupled_kl():
    arguments = {"temperature": 3.0, "target_weight": 0.7, "non_target_weight": 2.0}
    golden = golden_decoupled(S, T, LABELS, 3.0, 0.7, 2.0)
    close(run("decoupled_kl", S, T, LABELS, **arguments), over_positions(golden))
    # where there is no label, the teacher's first class stands in
    nobody = np.full_like(LABELS, -100)
    golden = golden_decoupled(S, T, T.argmax(-1), 3.0, 0.7, 2.0)
    close(run("decoupled_kl", S, T, nobody, **arguments), over_positions(golden))


def test_decoupled_parts_add_up_to_the_whole():
    """KL = TCKD + (1 − p_target) · NCKD, the identity that the paper starts from."""
    p = softmax(T / 2)
    rest = 1 - np.take_along_axis(p, LABELS[..., None], -1)[..., 0]
    arguments = {"temperature": 2.0, "mask": None}
    for i in np.ndindex(B, P):
        one = [x[i][None] for x in (S, T, LABELS)]
        whole = run("softened_kl", *one[:2], **arguments)
        parts = run("decoupled_kl", *one, **arguments, non_target_weight=float(rest[i]))
        close(parts, whole)


def test_dist():
    p, q = softmax(T / 2), softmax(S / 2)

    def rho(a, b):
        return np.corrcoef(a, b)[0, 1]

    inter = np.array([[1 - rho(p[i, j], q[i, j]) for j in range(P)] for i in range(B)])
    left, right = p[MASK], q[MASK]
    intra = np.mean([1 - rho(left[:, c], right[:, c]) for c in range(C)])
    golden = 4 * (0.5 * over_positions(inter) + 3 * intra)
    close(run("dist", S, T, temperature=2.0, inter_weight=0.5, intra_weight=3.0), golden)


def test_a_sample_of_the_classes():
    """Each kept class weighs its probability over the one that it was kept with."""
    k, draw = 3, RANDOM.uniform(0.1, 0.9, B * P)
    signals = {n: a.reshape(B, P, -1) for n, a in sample(T.reshape(-1, C), k, draw).items()}
    inputs = [S, *(signals[n] for n in ("indices", "values", "threshold", "partition"))]
    likely = softmax(T)
    for temperature in (1.0, 2.0, 4.0):
        p, q = softmax(T / temperature), softmax(S / temperature)
        golden = np.zeros((B, P))
        for place in np.ndindex(B, P):
            tau = np.exp(signals["threshold"][place][0])
            for c in signals["indices"][place]:
                kept = min(1, likely[place][c] / tau)
                golden[place] += p[place][c] / kept * np.log(p[place][c] / q[place][c])
        got = run("softened_kl_sampled", *inputs, temperature=temperature)
        close(got, over_positions(temperature**2 * golden))


def test_a_sample_of_all_classes_is_the_dense_loss():
    whole = sample(T.reshape(-1, C), C, RANDOM.uniform(0.1, 0.9, B * P))
    signals = [whole[n].reshape(B, P, -1) for n in ("indices", "values", "threshold", "partition")]
    for temperature in (1.0, 2.0, 4.0):
        golden = over_positions(golden_kl(S, T, temperature))
        close(run("softened_kl_sampled", S, *signals, temperature=temperature), golden)


def test_binary():
    def sigma(x):
        return 1 / (1 + np.exp(-x))

    p, q = sigma(T / 2), sigma(S / 2)
    values = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    close(run("binary_kl", S, T), over_positions(4 * values.sum(-1)))
    truth = RANDOM.integers(0, 2, (B, P, C)).astype(float)
    values = -np.log(np.where(truth == 1, sigma(S), 1 - sigma(S)))
    close(run("binary_cross_entropy", S, truth), over_positions(values.sum(-1)))
    values[0, 0, 0] = 0
    truth[0, 0, 0] = np.nan
    close(run("binary_cross_entropy", S, truth), over_positions(values.sum(-1)))


def test_regression():
    close(run("regression", S, T), over_positions(((S - T) ** 2).mean(-1)))
    close(
        run("regression_labels", S[:, 0, :1], T[:, 0, 0], mask=None), (S[:, 0, 0] - T[:, 0, 0]) ** 2
    )
    half = np.array([1.0, np.nan, 2.0])
    golden = [(S[0, 0, 0] - 1) ** 2, 0, (S[2, 0, 0] - 2) ** 2]
    close(run("regression_labels", S[:, 0, :1], half, mask=None), golden)


def test_hidden():
    student = [RANDOM.normal(size=(B, P, W)) for _ in range(2)]
    teacher = [RANDOM.normal(size=(B, P, W)) for _ in range(4)]
    golden = np.mean(
        [
            over_positions(((student[0] - teacher[1]) ** 2).mean(-1)),
            over_positions(((student[1] - teacher[3]) ** 2).mean(-1)),
        ],
        0,
    )
    layers = ((0, 1), (1, 3))
    close(run("hidden", student, teacher, layers=layers), golden)
    # as the store keeps them: [batch, positions, layers, width]
    close(run("hidden", student, np.stack(teacher, 2), layers=layers), golden)


def probabilities(heads):
    scores = RANDOM.normal(size=(B, heads, P, P))
    return softmax(np.where(MASK[:, None, None, :], scores, -1e9))


def golden_attention(mine, goal):
    out = np.zeros(B)
    for i, n in enumerate(LENGTHS):
        rows = [
            kl(goal[i, h, query, :n], mine[i, h, query, :n])
            for h in range(goal.shape[1])
            for query in range(n)
        ]
        out[i] = np.mean(rows)
    return out


def test_attention():
    mine, goal = probabilities(2), probabilities(2)
    np.testing.assert_allclose(
        run("attention", [mine], [goal]), golden_attention(mine, goal), atol=1e-6
    )
    many = probabilities(4)
    np.testing.assert_allclose(
        run("attention", [mine], [many]),
        golden_attention(mine.mean(1, keepdims=True), many.mean(1, keepdims=True)),
        atol=1e-6,
    )


def test_relation():
    student, teacher = RANDOM.normal(size=(B, P, 3, 6)), RANDOM.normal(size=(B, P, 3, 8))

    def golden(pair, heads=2):
        left, right = ("qkv".index(c) for c in pair.split("-"))
        out = np.zeros(B)
        for i, n in enumerate(LENGTHS):
            values = []
            for h in range(heads):
                sides = []
                for qkv in (student, teacher):
                    d = qkv.shape[-1] // heads
                    a, b = (qkv[i, :n, x, h * d : (h + 1) * d] for x in (left, right))
                    sides.append(softmax(a @ b.T / np.sqrt(d)))
                values.append(kl(sides[1], sides[0]).mean())
            out[i] = np.mean(values)
        return out

    for pair in ("q-q", "q-k", "v-v", "k-q"):
        close(run("relation", student, teacher, heads=2, pairs=(pair,)), golden(pair))
    both = np.mean([golden("q-k"), golden("v-v")], 0)
    close(run("relation", student, teacher, heads=2, pairs=("q-k", "v-v")), both)


def test_embedding():
    s, t = RANDOM.normal(size=(B, W)), RANDOM.normal(size=(B, W))
    cosine = (s @ t.T) / np.linalg.norm(s, axis=1)[:, None] / np.linalg.norm(t, axis=1)[None]
    close(run("embedding_cosine", s, t, mask=None), 1 - np.diag(cosine))
    golden = -np.log(np.diag(softmax(cosine / 0.1)))
    close(run("embedding_contrastive", s, t, mask=None, temperature=0.1), golden)
    close(run("embedding_mse", s, t, mask=None), ((s - t) ** 2).mean(1))


def test_what_the_samples_of_a_batch_are_near_to():
    s, t = RANDOM.normal(size=(4, W)), RANDOM.normal(size=(4, W + 2))  # widths may differ

    def chances(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return [softmax(np.delete(row, i) / 0.1) for i, row in enumerate(unit @ unit.T)]

    golden = [(q * np.log(q / p)).sum() for p, q in zip(chances(s), chances(t), strict=True)]
    close(run("similarity_kl", s, t, mask=None, temperature=0.1), np.array(golden))
    labels = np.array([3, 1, 3, -100])
    p = chances(s)  # of row 0 among 1, 2, 3 and of row 2 among 0, 1, 3
    golden = [-np.log(p[0][1]), 0, -np.log(p[2][0]), 0]
    found = run("supervised_contrastive", s, labels, mask=None, temperature=0.1)
    close(found, np.array(golden))


def test_spans():
    s, t = RANDOM.normal(size=(2, 2, 5)), RANDOM.normal(size=(2, 2, 5))
    goal, mine = softmax(t / 2), softmax(s / 2)
    golden = 4 * (goal * np.log(goal / mine)).sum(-1).mean(0)
    close(run("span_kl", s[0], s[1], t[0], t[1], mask=None, temperature=2.0), golden)
    labels = np.array([[0, 1, 0, 2, 0], [0, 0, 3, 0, 0]])
    mine = -np.log(softmax(s))
    golden = [(mine[0, 0, 1] + mine[1, 0, 3]) / 2, (mine[0, 1, 2] + mine[1, 1, 2]) / 2]
    close(run("span_cross_entropy", s[0], s[1], labels, mask=None), np.array(golden))


def test_every_loss_has_a_golden_value():
    from pathlib import Path

    source = Path(__file__).read_text()
    assert [name for name in LOSSES if f'run("{name}"' not in source] == []


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("softened_kl", lambda d: (d**2).sum(-1) / (2 * C)),
        ("binary_kl", lambda d: (d**2).sum(-1) / 8),
    ],
)
def test_the_limit_of_a_high_temperature_is_a_squared_error(name, limit):
    s, t = S[:, 0], T[:, 0]
    if name == "softened_kl":
        s, t = s - s.mean(-1, keepdims=True), t - t.mean(-1, keepdims=True)
    got = run(name, s, t, mask=None, temperature=1e4)
    np.testing.assert_allclose(got, limit(s - t), rtol=1e-3)


def test_the_gradient_keeps_its_size_as_the_temperature_grows():
    sizes = []
    for temperature in (50.0, 500.0):
        student = torch.from_numpy(S).requires_grad_()
        LOSSES["softened_kl"].make({"temperature": temperature})(
            student, torch.from_numpy(T)
        ).mean().backward()
        sizes.append(float(student.grad.norm()))
    assert abs(sizes[0] / sizes[1] - 1) < 0.05


def test_a_sure_teacher_at_one_degree_is_a_label():
    sure = np.where(np.eye(C, dtype=bool)[LABELS], 1e4, 0.0)
    close(run("softened_kl", S, sure, temperature=1.0), run("cross_entropy", S, LABELS))


def test_between_the_stored_temperatures_the_partition_is_bounded_by_its_chord():
    """Its logarithm is convex in 1/T, so interpolation never understates it."""
    from edgekd.distill.losses.sampled import log_partition

    logits = RANDOM.normal(size=(20, 500)) * 3
    values = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    stored = torch.from_numpy(sample(logits, 10, np.full(20, 0.5))["partition"])
    for temperature in (1.3, 3.0, 10.0):
        true = np.log(np.exp(values / temperature).sum(-1))
        got = log_partition(stored, 500, temperature).numpy()
        assert (got >= true - 1e-9).all()
        assert (got <= true + 0.5).all()
