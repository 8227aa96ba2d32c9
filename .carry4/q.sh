#!/usr/bin/env bash
. /tmp/.carry/lib.sh
export CUDA_VISIBLE_DEVICES=0
taskset -cp 0-3 $$ > /dev/null
until_there /tmp/built; until_there /tmp/smol_made; until_there /tmp/compiler_there
B="benchmarks/quality/recover.py"
run write 150 $B write /tmp/smol /tmp/own.pt --seconds 55
[ -s /tmp/own.pt ] || run write_hf 90 $B write /tmp/smol /tmp/own.pt --seconds 55 --loop transformers
touch /tmp/written
C="run /tmp/smol /tmp/.carry/texts.json --own /tmp/own.pt --batch 32 --compile-layers"
run q68 170 $B $C --patterns 6:8 --seconds 80 --deadline 150 --results /tmp/o/q68
run q46 170 $B $C --patterns 4:6 --seconds 80 --deadline 150 --results /tmp/o/q46
left=$(( 870 - $(now) ))
run q24 $(( left + 20 )) $B $C --patterns 2:4 --seconds 400 --deadline $left --lr 6e-4 --results /tmp/o/q24
touch /tmp/q_done
