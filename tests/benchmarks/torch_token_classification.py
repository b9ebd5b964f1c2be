"""Entity F1 of transformers and PyTorch on CoNLL columns, under the recipe of configs/ner_conll.py: the reference to hold jtl against.

    python tests/benchmarks/torch_token_classification.py DIR MODEL [--seeds 0 1 2] [--epochs 3] [--lr 1e-4] [--head-lr 1e-3] [--scratch]

DIR holds train.conll, dev.conll and test.conll, MODEL is a folder of a transformers checkpoint with its tokenizer. AdamW (decay 0.01 on
kernels), clip 1, linear decay, batches of 32 of random sentences; the label of a word is that of its first subword. Prints seqeval's report.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from seqeval.metrics import classification_report, f1_score
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

Sentence = tuple[list[str], list[str]]


def read(path: Path) -> list[Sentence]:
    """Words and tags of each sentence: the first and the last column, blank lines between sentences."""
    found: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text().splitlines(), '']:
        if line.strip():
            columns = line.split('\t')
            words.append(columns[0].strip())
            tags.append(columns[-1].strip())
        elif words:
            found.append((words, tags))
            words, tags = [], []
    return found


def encode(tokenizer, sentences: list[Sentence], number: dict[str, int], length: int) -> list[dict[str, list[int]]]:
    rows = []
    for words, tags in sentences:
        row = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length)
        labels, before = [], None
        for word in row.word_ids():
            labels.append(-100 if word is None or word == before else number[tags[word]])
            before = word
        rows.append({'input_ids': row['input_ids'], 'labels': labels})
    return rows


def batch_of(rows, pad: int):
    width = max(len(row['input_ids']) for row in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for k, row in enumerate(rows):
        n = len(row['input_ids'])
        ids[k, :n], labels[k, :n], mask[k, :n] = torch.tensor(row['input_ids']), torch.tensor(row['labels']), 1
    return {'input_ids': ids, 'attention_mask': mask, 'labels': labels}


def predict(model, rows, sentences, names, pad):
    """The tags of every word; those that were cut off are 'O'."""
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(rows), 64):
            part = rows[first : first + 64]
            best = model(**{k: v for k, v in batch_of(part, pad).items() if k != 'labels'}).logits.argmax(-1)
            for row, line in zip(part, best.tolist(), strict=True):
                found.append([names[tag] for tag, label in zip(line, row['labels'], strict=False) if label != -100])
    return [tags + ['O'] * (len(true) - len(tags)) for tags, (_, true) in zip(found, sentences, strict=True)]


def run(args, seed: int) -> tuple[float, str]:
    torch.manual_seed(seed)
    splits = {name: read(args.data / f'{name}.conll') for name in ('train', 'dev', 'test')}
    names = sorted({tag for sentences in splits.values() for _, tags in sentences for tag in tags}, key=lambda tag: (tag != 'O', tag))
    number = {tag: k for k, tag in enumerate(names)}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = {name: encode(tokenizer, sentences, number, 128) for name, sentences in splits.items()}
    config = AutoConfig.from_pretrained(args.model, num_labels=len(names))
    if args.scratch:
        model = AutoModelForTokenClassification.from_config(config)
    else:
        model = AutoModelForTokenClassification.from_pretrained(args.model, config=config)
    head = {id(p) for p in model.classifier.parameters()}
    groups = [
        {
            'params': [p for p in model.parameters() if (id(p) in head) == is_head and (p.ndim > 1) == decays],
            'lr': args.head_lr if is_head else args.lr,
            'weight_decay': 0.01 if decays else 0.0,
        }
        for is_head in (True, False)
        for decays in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups)
    steps = -(-args.epochs * len(rows['train']) // args.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    rng, order = np.random.default_rng(seed), []
    for step in range(steps):
        model.train()
        while len(order) < args.batch:
            order += rng.permutation(len(rows['train'])).tolist()
        chosen, order = order[: args.batch], order[args.batch :]
        loss = model(**batch_of([rows['train'][i] for i in chosen], tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f'seed {seed} step {step}/{steps} loss {loss.item():.4f}', flush=True)
    true = [tags for _, tags in splits['test']]
    said = predict(model, rows['test'], splits['test'], names, tokenizer.pad_token_id)
    dev = predict(model, rows['dev'], splits['dev'], names, tokenizer.pad_token_id)
    print(f'seed {seed}: dev F1 {f1_score([tags for _, tags in splits["dev"]], dev):.4f}')
    return f1_score(true, said), classification_report(true, said, digits=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path)
    parser.add_argument('model')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--lr', type=float, default=1e-4)
    parser.add_argument('--head-lr', type=float, default=1e-3)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--scratch', action='store_true')
    args = parser.parse_args()
    scores = []
    for seed in args.seeds:
        score, report = run(args, seed)
        scores.append(score)
        print(report, f'seed {seed}: test F1 {score:.4f}', sep='\n', flush=True)
    if len(scores) > 1:
        print(f'F1 {statistics.mean(scores):.4f} +- {statistics.stdev(scores):.4f} over {len(scores)} seeds')


if __name__ == '__main__':
    main()
