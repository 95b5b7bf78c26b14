# SPDX-License-Identifier: Apache-2.0
# Completion of pikvctl for bash, printed by `pikvctl completion bash`.
_pikvctl()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local verb="" second="" word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --output|-o|--address|--deadline|--namespace|-N|--group|-g|--scope|--route|--parent|--ttl|--label|-l|--offset|--length|--pattern|--cap|--limit|--count|-n|--from|--interval|--config|--trace|--block|--dram|--ssd|--format|--model|--gpus|--nodes|--redundant|--groups) ((i++)) ;;
        -*) ;;
        *)
            if [[ -z $verb ]]; then verb=$word
            elif [[ -z $second ]]; then second=$word; fi ;;
        esac
    done
    case $prev in
    -o|--output)
        COMPREPLY=($(compgen -W "table json" -- "$cur"))
        return ;;
    esac
    case $verb in
    "")
        COMPREPLY=($(compgen -W "put get lookup evict prefetch explain session export import events stat top size inspect keys clients namespace ssd cluster node placement coord experts firewall reload ping config doctor completion" -- "$cur"))
        return ;;
    namespace)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "list show create set bump" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    ssd)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "list retire replace" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    cluster)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "status nodes slots events" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    node)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "drain undrain remove" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    placement)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "show plan apply" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    coord)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "status transfer recover" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    experts)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "load plan export" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    config)
        if [[ -z $second ]]; then
            COMPREPLY=($(compgen -W "check dump schema" -- "$cur"))
            return
        fi
        verb+=" $second" ;;
    esac
    case $verb in
    "put") word="--output --address --deadline --help --version --namespace --group --scope --route --parent --ttl --label --no-create --durable --dry-run" ;;
    "get") word="--output --address --deadline --help --version --namespace --group --scope --route --offset --length --verify" ;;
    "lookup") word="--output --address --deadline --help --version --namespace --group --scope --route" ;;
    "evict") word="--output --address --deadline --help --version --namespace --group --scope --route --label --chain --pattern --demote --all --dry-run" ;;
    "prefetch") word="--output --address --deadline --help --version --namespace --group --scope --route --cap" ;;
    "explain") word="--output --address --deadline --help --version --namespace --group --scope --route" ;;
    "session") word="--output --address --deadline --help --version --namespace" ;;
    "export") word="--output --address --deadline --help --version --namespace --quiet" ;;
    "import") word="--output --address --deadline --help --version --namespace --no-create --durable --dry-run --quiet --force" ;;
    "events") word="--output --address --deadline --help --version --namespace --count --from" ;;
    "stat") word="--output --address --deadline --help --version" ;;
    "top") word="--output --address --deadline --help --version --count --batch --interval" ;;
    "size") word="--output --address --deadline --help --version --namespace --trace --block --dram --ssd" ;;
    "inspect") word="--output --address --deadline --help --version --namespace --group --scope" ;;
    "keys") word="--output --address --deadline --help --version --namespace --limit" ;;
    "clients") word="--output --address --deadline --help --version" ;;
    "namespace list") word="--output --address --deadline --help --version" ;;
    "namespace show") word="--output --address --deadline --help --version" ;;
    "namespace create") word="--output --address --deadline --help --version --dry-run" ;;
    "namespace set") word="--output --address --deadline --help --version --dry-run" ;;
    "namespace bump") word="--output --address --deadline --help --version --dry-run --yes" ;;
    "ssd list") word="--output --address --deadline --help --version" ;;
    "ssd retire") word="--output --address --deadline --help --version --dry-run" ;;
    "ssd replace") word="--output --address --deadline --help --version --dry-run --yes" ;;
    "cluster status") word="--output --address --deadline --help --version" ;;
    "cluster nodes") word="--output --address --deadline --help --version" ;;
    "cluster slots") word="--output --address --deadline --help --version --limit" ;;
    "cluster events") word="--output --address --deadline --help --version" ;;
    "node drain") word="--output --address --deadline --help --version --dry-run" ;;
    "node undrain") word="--output --address --deadline --help --version" ;;
    "node remove") word="--output --address --deadline --help --version --dry-run --yes" ;;
    "placement show") word="--output --address --deadline --help --version" ;;
    "placement plan") word="--output --address --deadline --help --version" ;;
    "placement apply") word="--output --address --deadline --help --version --dry-run" ;;
    "coord status") word="--output --address --deadline --help --version" ;;
    "coord transfer") word="--output --address --deadline --help --version" ;;
    "coord recover") word="--output --address --deadline --help --version --yes" ;;
    "experts load") word="--output --address --deadline --help --version --model" ;;
    "experts plan") word="--output --address --deadline --help --version --model --gpus --nodes --redundant --groups" ;;
    "experts export") word="--output --address --deadline --help --version --format --model --gpus --nodes --redundant --groups" ;;
    "firewall") word="--output --address --deadline --help --version --config --format" ;;
    "reload") word="--output --address --deadline --help --version" ;;
    "ping") word="--output --address --deadline --help --version" ;;
    "config check") word="--output --address --deadline --help --version" ;;
    "config dump") word="--output --address --deadline --help --version" ;;
    "config schema") word="--output --address --deadline --help --version" ;;
    "doctor") word="--output --address --deadline --help --version --config" ;;
    "completion") word="--output --address --deadline --help --version" ;;
    *) word="" ;;
    esac
    case $cur in
    -*) COMPREPLY=($(compgen -W "$word" -- "$cur")) ;;
    *) COMPREPLY=($(compgen -f -- "$cur")) ;;
    esac
}
complete -o filenames -F _pikvctl pikvctl
