#!/bin/sh
# From videos to labels, a comparison and a page, command by command, in the folder that it is started in:
#
#     sh examples/walkthrough.sh                        SimPouring, rendered on first use
#     sh examples/walkthrough.sh DIR                    another data set with videos/ and segments.csv
#     sh examples/walkthrough.sh DIR key=value ...      with other settings of the training
#
# It plays a lab with a folder of videos, three of which somebody has labelled. Ctrl-C leaves the page, which comes last.
# Given again it goes on: what is trained and embedded is kept. Delete my_videos to begin with other videos.
set -eu

source=${1:-simpouring}
[ $# -eq 0 ] || shift
say() { printf '\n== %s\n' "$*"; }

say "my_videos: the videos, and the labels of three of them"
[ "$source" != simpouring ] || source=$(python -m lacray.simpouring)
if [ ! -d my_videos ]; then
    mkdir my_videos.part
    cp -R "$source/videos" my_videos.part/videos
    awk -F, 'NR == 1 || $1 in seen || num++ < 3 { seen[$1]; print }' "$source/segments.csv" > my_videos.part/segments.csv
    mv my_videos.part my_videos
fi
reference=$(sed -n 2p my_videos/segments.csv | cut -d, -f1)
other=$(cd my_videos && find videos -type f | LC_ALL=C sort | tail -n 1)
python -m lacray.data check my_videos

say "train: an encoder of these videos, without their labels"
python -m lacray.train data.root=my_videos --results results "$@"
checkpoint=$(ls -t results/train/checkpoints/*.pt | head -n 1)

say "embed: a vector for every frame, for other programs"
python -m lacray.embed "$checkpoint" my_videos --out embeddings.parquet

say "align: $other in step with $reference"
python -m lacray.align "$checkpoint" "$reference" "$other" --root my_videos --out alignment

say "retrieve: the moments of the other videos that are most like second 1 of $reference"
python -m lacray.retrieve "$checkpoint" "$reference@1" my_videos --out moments

say "label: the phases of three videos, carried to all others"
python -m lacray.label "$checkpoint" my_videos --out labels

say "compare: who deviates from $reference, where, and by how many seconds"
python -m lacray.compare "$checkpoint" "$reference" my_videos --out deviations

say "view: all of it on a page, where labels are corrected and saved"
exec python -m lacray.view my_videos --checkpoint "$checkpoint"
