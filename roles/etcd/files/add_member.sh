#!/usr/bin/env bash
# add_member NAME PEER_URL
# Makes NAME a member of the running cluster and prints, as the last line, the cluster as its first start needs it.
# Runs on a member; ETCDCTL_* say how to reach it. Exit 3: the cluster has no majority.
set -euo pipefail
name=$1 url=$2

etcdctl endpoint health >/dev/null 2>&1 || exit 3

# id, status, name, peer URLs, client URLs, learner
while IFS=, read -r id status member peers clients _; do
    [[ ${peers// /} == "$url" || ${member// /} == "$name" ]] || continue
    if [[ ${status// /} == unstarted || -z ${clients// /} ]]; then
        known=yes # added by a run that did not get further, or part of a first start that is not over
    else
        # It was a member and lost its data: its old self must not come back with an empty log.
        echo "removing the former $name ($id), which has lost its data"
        etcdctl member remove "${id// /}" >/dev/null
    fi
done < <(etcdctl member list --write-out=simple)

if [[ ${known-} != yes ]]; then
    # Right after a member joined or left, etcd may refuse the next change for a few seconds.
    for attempt in {1..15}; do
        if etcdctl member add "$name" --peer-urls="$url" >/dev/null; then
            break
        fi
        ((attempt < 15)) || { echo "etcd does not accept $name ($url) as a new member" >&2; exit 1; }
        sleep 2
    done
fi

cluster=
while IFS=, read -r _ _ member peers _; do
    member=${member// /} peers=${peers// /}
    [[ $peers == "$url" ]] && member=$name
    cluster+=${cluster:+,}$member=$peers
done < <(etcdctl member list --write-out=simple)
echo "$cluster"
