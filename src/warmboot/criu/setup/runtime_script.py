"""The shell's part of the runtime of workers, which stands in front of ``program``'s.

A shell starts in a tenth of the time that an interpreter takes, and an engine starts the runtime
several times for each container. What needs JSON or sums is asked of the interpreter.
"""

SCRIPT = """\
state=STATE
program() { exec PYTHON "$0" "$@"; }

command= value= log= root=/run/runc at=0 id=
for word; do
    [ -n "$command" ] || at=$((at + 1))
    id=$word
    if [ -n "$command" ]; then :
    elif [ -n "$value" ]; then
        case $value in --root) root=$word ;; --log) log=$word ;; esac
        value=
    else
        case $word in
        --log | --log-format | --root | --criu | --rootless) value=$word ;;
        --root=*) root=${word#*=} ;;
        --log=*) log=${word#*=} ;;
        --warmboot) program describe ;;
        -*) ;;
        *) command=$word ;;
        esac
    fi
done
folder=$state/$id

fail() { program fail "$log" "warmboot's runtime: $1"; }

write() { # FILE TEXT
    { printf '%s' "$2" > "$1"; } 2> /dev/null || fail "$1 cannot be written"
}

: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
runc= IFS=:
for place in $PATH; do
    if [ -x "$place/runc" ]; then
        runc=$place/runc
        break
    fi
done
unset IFS
[ -n "$runc" ] || fail "there is no runc on its PATH, $PATH"

annotate() { # have runc give CRIU the options in that file, as they are at each pause and resume
    config=$(cat "$1/config.json") || fail "$1/config.json cannot be read"
    case $config in
    *'"annotations"'*) ;;
    '{"'*)
        note="{\\"annotations\\": {\\"org.criu.config\\": \\"$2\\"}, "
        write "$1/config.json" "$note${config#?}"
        return
        ;;
    esac
    (program annotate "$log" "$1/config.json" "$2") || exit
}

case $command in
start)
    if [ -e "$folder/restored" ]; then
        exec rm -f "$folder/restored" "$folder/resume" "$folder/checked"
    fi
    ;;
delete)
    if [ -d "$folder" ]; then
        rm -f "$folder/restored" "$folder/noted" "$folder/criu.conf" "$folder/checked"
        rmdir "$folder" 2> /dev/null # an order may be in it
    fi
    if [ -d "$root/$id/criu-root" ]; then # of a runc that was killed at a restore
        umount --lazy "$root/$id/criu-root" 2> /dev/null
    fi
    ;;
create)
    [ -d "$folder" ] || mkdir -p -m 700 "$folder" 2> /dev/null || fail "$folder cannot be made"
    [ ! -e "$folder/restored" ] || rm -f "$folder/restored"
    write "$folder/noted" "$root
$runc
"
    bundle=. value= count=$# number=0
    for word; do
        number=$((number + 1))
        [ "$number" -gt "$at" ] || continue
        case $value in --bundle | -b) bundle=$word ;; esac
        value=$word
        case $word in --bundle=* | -b=*) bundle=${word#*=} ;; esac
    done
    annotate "$bundle" "$folder/criu.conf"
    if [ -e "$folder/resume" ]; then
        {
            IFS= read -r path
            IFS= read -r images
            IFS= read -r work
            options=
            while IFS= read -r option; do
                options="$options$option
"
            done
        } < "$folder/resume"
        write "$folder/criu.conf" "$options"
        while read -r option value; do # what hides folders is gone since a reboot
            empty=${value#*]:}
            case $option:$empty in
            external:EMPTY/*) [ -d "$empty" ] || mkdir -p -m 555 "$empty" ;;
            esac
        done <<end
$options
end
        if [ -s "$folder/checked" ]; then # for this start, and no other
            write "$folder/checked" ""
        else
            (program check "$log" "$images") || exit
        fi
        write "$folder/restored" ""
        PATH=$path:$PATH
        number=0 value=
        for word; do # those of `create` that `restore` has, too
            shift
            number=$((number + 1))
            if [ "$number" -lt "$at" ] || [ "$number" -eq "$count" ]; then :
            elif [ "$number" -eq "$at" ]; then
                set -- "$@" restore --detach --image-path "$images" --work-path "$work"
                continue
            elif [ -n "$value" ]; then
                [ "$value" = keep ] || word=
                value=
                [ -n "$word" ] || continue
            else
                case $word in
                --bundle | -b | --console-socket | --pid-file) value=keep ;;
                --bundle=* | -b=* | --console-socket=* | --pid-file=* | --no-pivot*) ;;
                --preserve-fds)
                    value=drop
                    continue
                    ;;
                *) continue ;;
                esac
            fi
            set -- "$@" "$word"
        done
        read -r boot < /proc/sys/kernel/random/boot_id
        if [ -f "KERNDAT$boot" ]; then
            exec unshare --mount --propagation unchanged SHOW_KERNDAT \\
                "KERNDAT$boot" "$runc" "$@"
        fi
    fi
    ;;
esac
exec "$runc" "$@"
"""
