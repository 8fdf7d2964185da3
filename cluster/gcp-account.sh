#!/usr/bin/env bash
# What the cluster of cluster/gcp.yaml needs in a Google project, made once; then gcp.yaml is filled in. Needs gcloud, logged in.
#
#   cluster/gcp-account.sh up PROJECT ADDRESS BUCKET     ADDRESS: who may reach the nodes by ssh, such as 203.0.113.7/32
#   cluster/gcp-account.sh down PROJECT                  takes it all away but the bucket
#
# Ray would make a service account with the roles compute.admin and storage.objectAdmin on the whole project, and use the network
# `default`, whose ssh is open to the world. EARSHOT_REGION and EARSHOT_ZONE choose the place, EARSHOT_GPU_IMAGES the family of the GPU image.
set -euo pipefail

config=${EARSHOT_GCP_CONFIG:-$(cd "$(dirname "$0")" && pwd)/gcp.yaml}
region=${EARSHOT_REGION:-us-west1}
zone=${EARSHOT_ZONE:-us-west1-a}
gpu_images=${EARSHOT_GPU_IMAGES:-common-cu129-ubuntu-2404-nvidia-580}
cpu_images=ubuntu-2404-lts-amd64

# What a head needs to start, watch and end machines. Nothing on networks, firewalls, accounts or images.
head_permissions=compute.instances.create,compute.instances.delete,compute.instances.get,compute.instances.list
head_permissions+=,compute.instances.setLabels,compute.instances.setMetadata,compute.instances.setServiceAccount,compute.instances.setTags
head_permissions+=,compute.disks.create,compute.subnetworks.use,compute.subnetworks.useExternalIp,compute.zoneOperations.get

fail() {
    echo "gcp-account: $*" >&2
    exit 2
}

cloud() {
    gcloud --quiet --project "$project" "$@"
}

account() {
    echo "earshot-$1@$project.iam.gserviceaccount.com"
}

# The newest image of a family, by its name: what is written into gcp.yaml stays the same for every node.
image() {
    cloud compute images describe-from-family "$2" --image-project "$1" --format 'value(selfLink)' ||
        fail "no image family $2 in $1; see: gcloud compute images list --project $1 --no-standard-images"
}

up() {
    [[ $address =~ ^[1-9][0-9]{0,2}(\.[0-9]{1,3}){3}/(2[4-9]|3[0-2])$ ]] ||
        fail "ADDRESS needs the form 203.0.113.7/32, at most 256 addresses; not '$address'"
    local cpu_image gpu_image
    cpu_image=$(image ubuntu-os-cloud "$cpu_images")
    gpu_image=$(image deeplearning-platform-release "$gpu_images")
    [ -n "$cpu_image" ] && [ -n "$gpu_image" ] || fail "no image to start from"

    cloud services enable compute.googleapis.com iam.googleapis.com storage.googleapis.com
    cloud compute networks create earshot --subnet-mode custom
    cloud compute networks subnets create earshot --network earshot --region "$region" --range 10.86.0.0/20
    cloud compute firewall-rules create earshot-ssh --network earshot --direction INGRESS --target-tags earshot \
        --allow tcp:22 --source-ranges "$address"
    cloud compute firewall-rules create earshot-nodes --network earshot --direction INGRESS --target-tags earshot \
        --allow all --source-tags earshot

    cloud storage buckets create "gs://$bucket" --location "$region" --uniform-bucket-level-access --public-access-prevention
    cloud iam roles create earshotHead --title "Earshot head" --permissions "$head_permissions"
    for node in head worker; do
        cloud iam service-accounts create "earshot-$node"
        cloud storage buckets add-iam-policy-binding "gs://$bucket" \
            --member "serviceAccount:$(account $node)" --role roles/storage.objectViewer
    done
    cloud projects add-iam-policy-binding "$project" --condition None \
        --member "serviceAccount:$(account head)" --role "projects/$project/roles/earshotHead"
    cloud iam service-accounts add-iam-policy-binding "$(account worker)" \
        --member "serviceAccount:$(account head)" --role roles/iam.serviceAccountUser

    sed -i -e "s#EDIT-PROJECT#$project#g" -e "s#EDIT-REGION#$region#g" -e "s#EDIT-ZONE#$zone#g" -e "s#EDIT-BUCKET#$bucket#g" \
        -e "s#EDIT-CPU-IMAGE#$cpu_image#g" -e "s#EDIT-GPU-IMAGE#$gpu_image#g" "$config"
    echo "gcp-account: $config is filled in; the weights go to gs://$bucket/weights/"
}

down() {
    cloud iam service-accounts delete "$(account head)"
    cloud iam service-accounts delete "$(account worker)"
    cloud iam roles delete earshotHead
    cloud compute firewall-rules delete earshot-ssh earshot-nodes
    cloud compute networks subnets delete earshot --region "$region"
    cloud compute networks delete earshot
}

verb=${1:-} project=${2:-} address=${3:-} bucket=${4:-}
case $verb:$# in
up:4) up ;;
down:2) down ;;
*) fail "use: gcp-account.sh up PROJECT ADDRESS BUCKET | down PROJECT" ;;
esac
