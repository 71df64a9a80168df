"""From logits to text, as projects keep it beside their script; imported when it is needed."""

import numpy as np


def best_spans(questions, features, predictions):
    starts, ends = predictions
    found = {}
    for index, feature in enumerate(features):
        start = int(np.argmax(starts[index]))
        end = max(start, int(np.argmax(ends[index])))
        context = questions[feature["example"]]["context"]
        found[questions[feature["example"]]["id"]] = context[start : end + 1]
    return found
